"""Which OSEDiff weights a run uses, and their identity; torch-free."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from pipelines.contract import PipelineError, WeightsSource
from pipelines.s3diff.weight_sources import OSEDIFF_FILES, S3DIFF_FILES
from pipelines.s3diff.weight_sources import resolve_weights as resolve_s3diff
from pipelines.stable_diffusion.weight_cache import cached
from pipelines.stable_diffusion.weight_folder import hash_files, snapshot_files, user_folder

__all__ = ["OSEDIFF_FILES", "adapter_file", "file_hashes", "resolve_weights"]

_RECIPE = "1"
"""Version of the numbers of `mini` and `synthetic`."""
MINI_SCORE = ("0.5", "0.5")
"""Blur and noise score that the adapters of S3Diff's `mini` are fixed at."""
_ADAPTER_BYTES = 60_000_000


def resolve_weights(name: str | None, device: str) -> WeightsSource:
    """Find the weights for a run, writing ours into the cache when they are needed.

    Args:
        name: A folder, `mini` or `synthetic`; None takes SRBENCH_WEIGHTS, else `synthetic` on CUDA
            and `mini` on a CPU.
        device: `cuda` or `cpu`.

    Raises:
        PipelineError: No such folder, a file of it is missing, or the cache cannot be written.
    """
    chosen = name or os.environ.get("SRBENCH_WEIGHTS")
    if not chosen:
        chosen = "synthetic" if device.startswith("cuda") else "mini"
    if chosen == "mini":
        return _from_s3diff("mini", ["pipelines.osediff.mini", "--score", *MINI_SCORE], 0)
    if chosen == "synthetic":
        return _from_s3diff("synthetic", ["pipelines.osediff.synthesize"], _ADAPTER_BYTES)
    origin = "" if name else " (from SRBENCH_WEIGHTS)"
    return user_folder(Path(chosen).expanduser(), origin, file_hashes)


def adapter_file(folder: Path) -> Path:
    """The file with OSEDiff's adapters, in either of its names.

    Raises:
        PipelineError: There is none; a folder of S3Diff is told apart.
    """
    for name in OSEDIFF_FILES:
        if (folder / name).is_file():
            return folder / name
    path = folder / OSEDIFF_FILES[0]
    if any((folder / name).exists() for name in S3DIFF_FILES):
        raise PipelineError(
            f"{path}: missing; {S3DIFF_FILES[0]} beside it is of S3Diff, whose adapters OSEDiff "
            "cannot run; use the pipelines s3diff-…, or put osediff.pkl here"
        )
    raise PipelineError(
        f"{path}: missing; a weights folder of OSEDiff holds sd-turbo/ and osediff.pkl (or "
        "PassionSR's osediff.ckpt), which its authors publish"
    )


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each weight file by its path in the folder; see `hash_files`.

    Raises:
        PipelineError: A file is missing or cannot be read.
    """
    found = [adapter_file(folder), *snapshot_files(folder)]
    for path in found:
        if not path.is_file():
            raise PipelineError(
                f"{path}: missing; sd-turbo/ is a snapshot of Stable Diffusion 2.1 in diffusers' "
                "layout"
            )
    return hash_files(folder, found)


def _from_s3diff(kind: str, module: list[str], needed_bytes: int) -> WeightsSource:
    """Weights made from those of the same kind of S3Diff, whose identity they continue."""
    source = resolve_s3diff(kind, "cpu")
    identity = " ".join((_RECIPE, *module, source.digest))
    digest = hashlib.sha256(identity.encode()).hexdigest()
    name = f"osediff-{kind}-{digest[:16]}"
    folder = cached(name, [*module, "--source", str(source.path)], needed_bytes)
    return WeightsSource(folder, source.kind, digest, source.synthetic)
