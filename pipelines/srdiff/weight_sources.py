"""Which SRDiff weights a run uses, and their identity; torch-free."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from pipelines.contract import PipelineError, WeightsSource
from pipelines.srdiff.config import CONFIGS

MINI = Path(__file__).with_name("mini.safetensors")
"""A small network trained by `pipelines.srdiff.mini`, shipped with the package."""
SEEDED = CONFIGS["df2k-x4"]
"""The architecture of `synthetic` weights."""
_RECIPE = "1"
"""Version of the numbers of `synthetic` weights."""
SUFFIXES = (".ckpt", ".pt", ".pth", ".safetensors")
"""Of files that may be checkpoints."""


def resolve_weights(name: str | None, device: str) -> WeightsSource:
    """Find the weights for a run.

    Args:
        name: A checkpoint file, a folder that holds one, `mini` or `synthetic`; None takes
            SRBENCH_WEIGHTS, else `synthetic` on CUDA and `mini` on a CPU.
        device: `cuda` or `cpu`.

    Raises:
        PipelineError: No such file, or none that can be told from others.
    """
    chosen = name or os.environ.get("SRBENCH_WEIGHTS")
    if not chosen:
        chosen = "synthetic" if device.startswith("cuda") else "mini"
    if chosen == "synthetic":
        digest = hashlib.sha256(f"srdiff {_RECIPE} {SEEDED}".encode()).hexdigest()
        return WeightsSource(path=Path(chosen), kind="synthetic", digest=digest, synthetic=True)
    if chosen == "mini":
        return WeightsSource(path=MINI, kind="mini", digest=_digest(MINI), synthetic=False)
    origin = "" if name else " (from SRBENCH_WEIGHTS)"
    path = checkpoint_file(Path(chosen).expanduser(), origin)
    return WeightsSource(path=path, kind="folder", digest=_digest(path), synthetic=False)


def checkpoint_file(path: Path, origin: str = "") -> Path:
    """The checkpoint that a path names: itself, or that of a folder with the most steps.

    Args:
        path: A file, or a folder as the authors release it (`model_ckpt_steps_400000.ckpt` beside
            `config.yaml`).
        origin: Where the path was given, for messages.

    Raises:
        PipelineError: There is none, or several that are not told apart by their steps.
    """
    if path.is_file():
        return path
    if not path.is_dir():
        raise PipelineError(
            f"{path}: no such file or folder{origin}; give an SRDiff checkpoint, `mini` or "
            "`synthetic`"
        )
    if (path / "sd-turbo").is_dir():
        raise PipelineError(f"{path}: S3Diff's weights{origin}, not a checkpoint of SRDiff")
    found = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
    by_steps = {int(m[1]): f for f in found if (m := re.search(r"_steps_(\d+)\.", f.name))}
    if by_steps:
        return by_steps[max(by_steps)]
    if len(found) != 1:
        names = ", ".join(file.name for file in found[:3]) or "none"
        raise PipelineError(
            f"{path}: one SRDiff checkpoint is expected in it{origin}, found {names}; name the file"
        )
    return found[0]


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read ({error.strerror})") from error
