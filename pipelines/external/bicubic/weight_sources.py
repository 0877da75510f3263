"""The identity of what has no weights; torch-free."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipelines.contract import PipelineError, WeightsSource


def resolve_weights(name: str | None, device: str) -> WeightsSource:
    """What a run of nothing but bicubic resampling says of its weights.

    Args:
        name: Of `--weights`, which chooses nothing here.
        device: `cuda` or `cpu`.

    Raises:
        PipelineError: `name` is a path.
    """
    if name not in (None, "mini", "synthetic"):
        raise PipelineError(f"--weights {name}: bicubic has no weights; leave the option out")
    digest = hashlib.sha256(b"bicubic").hexdigest()
    return WeightsSource(path=Path("none"), kind="folder", digest=digest, synthetic=False)
