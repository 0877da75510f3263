"""Weights on disk: of which system they are, and what is wrong with them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from math import prod
from pathlib import Path

from pipelines.contract import PipelineError
from srbench.systems import OSEDIFF, REALESRGAN, S3DIFF, SRDIFF, System


@dataclass(frozen=True, slots=True)
class Examined:
    """A weights folder or checkpoint.

    Attributes:
        path: What was examined.
        problems: One line each; empty where it can be used.
        facts: Lines on what it is: of a configuration, and the SHA-256 of each file.
    """

    path: Path
    problems: list[str]
    facts: list[str]


def system_of_weights(path: Path) -> System:
    """Whose weights a user's path names, by its layout alone.

    S3Diff has a folder of three, OSEDiff one of two, the snapshot in both; SRDiff a checkpoint,
    alone or in a folder; Real-ESRGAN a file that is named after it.
    """
    from pipelines.osediff.weight_sources import OSEDIFF_FILES
    from pipelines.s3diff.weight_sources import S3DIFF_FILES
    from pipelines.srdiff.weight_sources import SUFFIXES

    if path.is_file():
        return REALESRGAN if path.name.lower().startswith("realesrgan") else SRDIFF
    if not path.is_dir() or any((path / name).exists() for name in S3DIFF_FILES):
        return S3DIFF
    if any((path / name).exists() for name in OSEDIFF_FILES):
        return OSEDIFF
    if (path / "sd-turbo").exists():
        return S3DIFF
    return SRDIFF if any(file.suffix in SUFFIXES for file in path.iterdir()) else S3DIFF


def examine_weights(path: Path) -> Examined:
    """Read weights and hold their names and shapes against the architecture.

    Args:
        path: A folder in S3Diff's or OSEDiff's layout, an SRDiff checkpoint or a folder that holds
            one, or Real-ESRGAN's network.

    Raises:
        PipelineError: A folder with several SRDiff checkpoints, or a file that cannot be read.
    """
    system = system_of_weights(path)
    if system is SRDIFF:
        return _examine_checkpoint(path)
    if system is REALESRGAN:
        return _examine_network(path)
    problems = import_module(f"{system.package}.weights").check_folder(path)
    sources = import_module(f"{system.package}.weight_sources")
    hashes = {} if problems else sources.file_hashes(path)
    return Examined(path, problems, [f"{value}  {name}" for name, value in hashes.items()])


def _examine_checkpoint(given: Path) -> Examined:
    from pipelines.srdiff.checkpoint import find_problems, infer_config, read_tensors
    from pipelines.srdiff.config import SCHEDULE_BUFFERS, checkpoint_shapes
    from pipelines.srdiff.weight_sources import checkpoint_file, resolve_weights

    path = checkpoint_file(given)
    try:
        tensors = read_tensors(path)
        config = infer_config(path, tensors)
    except PipelineError as error:
        return Examined(path, [str(error)], [])
    shapes = checkpoint_shapes(config)
    parameters = sum(prod(shape) for name, shape in shapes.items() if name not in SCHEDULE_BUFFERS)
    facts = [
        f"SRDiff x{config.scale}: hidden_size {config.hidden_size}, "
        f"dim_mults {' '.join(map(str, config.dim_mults))}, {config.rrdb_blocks} RRDB blocks of "
        f"{config.rrdb_features}, {config.timesteps} steps ({config.schedule}), "
        f"{parameters / 1e6:.2f} million parameters",
        f"{resolve_weights(str(path), 'cpu').digest}  {path.name}",
    ]
    return Examined(path, find_problems(tensors, shapes), facts)


def _examine_network(path: Path) -> Examined:
    from pipelines.external.realesrgan.checkpoint import read_network
    from pipelines.external.realesrgan.weight_sources import file_digest

    try:
        shape, tensors = read_network(path)
        digest = file_digest(path)
    except PipelineError as error:
        return Examined(path, [str(error)], [])
    parameters = sum(tensor.numel() for tensor in tensors.values())
    facts = (
        f"Real-ESRGAN x4: {shape.blocks} RRDB blocks of {shape.features}, growth {shape.growth}, "
        f"{parameters / 1e6:.2f} million parameters"
    )
    return Examined(path, [], [facts, f"{digest}  {path.name}"])
