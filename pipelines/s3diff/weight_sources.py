"""Which weights a run uses, and their identity; torch-free.

A name given by the user wins, then `SRBENCH_WEIGHTS`, then a complete hub cache; without any of
these the full-size seeded weights on CUDA, and `mini`, the small trained model of this package, on
CPU.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from pipelines.cache import cache_folder
from pipelines.contract import PipelineError, WeightsSource
from pipelines.s3diff.recipe import recipe
from pipelines.stable_diffusion.weight_cache import cached, unwritable
from pipelines.stable_diffusion.weight_folder import (
    SNAPSHOT_FILES,
    hash_files,
    snapshot_files,
    user_folder,
)

__all__ = [
    "MINI",
    "S3DIFF_FILES",
    "S3DIFF_REPOSITORY",
    "SD_TURBO_REPOSITORY",
    "SNAPSHOT_FILES",
    "file_hashes",
    "hub_snapshot",
    "resolve_weights",
    "weight_files",
]

S3DIFF_REPOSITORY = "zhangap/S3Diff"
SD_TURBO_REPOSITORY = "stabilityai/sd-turbo"
S3DIFF_FILES = ("s3diff.pkl", "de_net.pth")
OSEDIFF_FILES = ("osediff.pkl", "osediff.ckpt")
"""Names of OSEDiff's adapters, whose folders are told apart: its own, and that of PassionSR."""
MINI = Path(__file__).parent / "mini" / "weights.safetensors"
_FULL_BYTES = 5_400_000_000


def resolve_weights(name: str | None, device: str) -> WeightsSource:
    """Find the weights for a run, writing ours into the cache when they are needed.

    Args:
        name: A folder, `mini` or `synthetic`; None takes the default.
        device: `cuda` or `cpu`, which decides the default without trained weights.

    Raises:
        PipelineError: No such folder, a file of it is missing, or the cache cannot be written.
    """
    chosen = name or os.environ.get("SRBENCH_WEIGHTS")
    if chosen == "mini":
        return _mini()
    if chosen == "synthetic":
        return _seeded()
    if chosen:
        origin = "" if name else " (from SRBENCH_WEIGHTS)"
        return user_folder(Path(chosen).expanduser(), origin, file_hashes)
    found = hub_snapshot()
    if found is not None:
        return user_folder(found, " (from the hub cache)", file_hashes)
    return _seeded() if device.startswith("cuda") else _mini()


def weight_files(folder: Path) -> list[Path]:
    """The files that decide what a weights folder computes.

    Raises:
        PipelineError: One of them is missing.
    """
    found = [*(folder / name for name in S3DIFF_FILES), *snapshot_files(folder)]
    for path in found:
        if not path.is_file():
            for name in OSEDIFF_FILES:
                if path.name in S3DIFF_FILES and (folder / name).exists():
                    raise PipelineError(
                        f"{path}: missing; {name} beside it is of OSEDiff; use the pipelines "
                        "osediff-…, or put S3Diff's own files here"
                    )
            raise PipelineError(
                f"{path}: missing; a weights folder holds sd-turbo/, s3diff.pkl and de_net.pth "
                "(`srbench weights fetch` downloads them)"
            )
    return found


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each weight file by its path in the folder; see `hash_files`.

    Raises:
        PipelineError: A file is missing or cannot be read.
    """
    return hash_files(folder, weight_files(folder))


def hub_snapshot() -> Path | None:
    """A folder in our layout that points into a complete hub cache, or None without one."""
    hub = _hub_folder()
    turbo = _hub_revision(hub, SD_TURBO_REPOSITORY)
    s3diff = _hub_revision(hub, S3DIFF_REPOSITORY)
    if turbo is None or s3diff is None:
        return None
    name = f"hub-{s3diff.name[:12]}-{turbo.name[:12]}"
    folder = cache_folder() / "weights" / name
    links = {"sd-turbo": turbo, **{file: s3diff / file for file in S3DIFF_FILES}}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for link, target in links.items():
            if (folder / link).resolve() != target.resolve():
                with suppress(FileNotFoundError):
                    (folder / link).unlink()
                with suppress(FileExistsError):  # another process was quicker
                    (folder / link).symlink_to(target)
        weight_files(folder)
    except PipelineError:
        return None
    except OSError as error:
        raise PipelineError(unwritable(folder, error)) from error
    return folder


def _hub_folder() -> Path:
    environment = os.environ
    for variable in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if environment.get(variable):
            return Path(environment[variable]).expanduser()
    if environment.get("HF_HOME"):
        return Path(environment["HF_HOME"]).expanduser() / "hub"
    base = environment.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "huggingface" / "hub"


def _hub_revision(hub: Path, repository: str) -> Path | None:
    root = hub / f"models--{repository.replace('/', '--')}"
    try:
        revision = (root / "refs" / "main").read_text(encoding="utf-8").strip()
    except OSError:
        return None
    snapshot = root / "snapshots" / revision
    return snapshot if revision and snapshot.is_dir() else None


def _mini() -> WeightsSource:
    try:
        with MINI.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PipelineError(f"{MINI}: cannot be read ({error.strerror})") from error
    folder = cached(f"mini-{digest[:16]}", ["pipelines.s3diff.mini.unpack"], 0)
    return WeightsSource(path=folder, kind="mini", digest=digest, synthetic=False)


def _seeded() -> WeightsSource:
    plan = recipe("full")
    command = ["pipelines.s3diff.synthesize", "--size", "full"]
    folder = cached(f"full-{plan.digest[:16]}", command, _FULL_BYTES)
    return WeightsSource(path=folder, kind="synthetic", digest=plan.digest, synthetic=True)
