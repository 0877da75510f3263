"""Where the network lies, and its identity; torch-free."""

from __future__ import annotations

import hashlib
from pathlib import Path

from pipelines.cache import cache_folder
from pipelines.contract import PipelineError, WeightsSource
from pipelines.stable_diffusion.weight_folder import hash_files

COMMAND = "srbench weights fetch --realesrgan"


def network_file() -> Path:
    """Where the fetch command leaves the network."""
    return cache_folder() / "weights" / "realesrgan-x4plus.safetensors"


def find_network(chosen: str) -> Path:
    """The file that the option `weights` names, the fetched one where it is empty.

    Raises:
        PipelineError: There is none.
    """
    path = Path(chosen).expanduser() if chosen else network_file()
    if path.is_file():
        return path
    if chosen:
        raise PipelineError(f"option weights={chosen}: no such file; `{COMMAND}` gets one")
    raise PipelineError(f"{path}: the network is not there; `{COMMAND}` gets it (33 MB)")


def file_digest(path: Path) -> str:
    """SHA-256 of a network's file, remembered while it does not change.

    Raises:
        PipelineError: It cannot be read.
    """
    return hash_files(path.parent, [path])[path.name]


def resolve_weights(name: str | None, device: str) -> WeightsSource:
    """What a run of nothing but this pipeline and its like says of its weights.

    Another file is an option of the pipeline, so one that is not there is refused at load.

    Args:
        name: Of `--weights`, which chooses nothing here.
        device: `cuda` or `cpu`.

    Raises:
        PipelineError: `name` is a path, or the network cannot be read.
    """
    if name not in (None, "mini", "synthetic"):
        raise PipelineError(
            f"--weights {name}: Real-ESRGAN takes its network by --set weights=FILE, and without "
            f"it what `{COMMAND}` got"
        )
    path = network_file()
    digest = file_digest(path) if path.is_file() else hashlib.sha256().hexdigest()
    return WeightsSource(path=path, kind="folder", digest=digest, synthetic=False)
