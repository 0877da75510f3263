"""Which weights a run uses, and their identity; torch-free.

A name given by the user wins, then `SRBENCH_WEIGHTS`, then a complete hub cache; without any of
these the full-size seeded weights on CUDA, and `mini`, the small trained model of this package, on
CPU.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pipelines.cache import cache_folder
from pipelines.contract import PipelineError, WeightsSource
from pipelines.s3diff.recipe import recipe

logger = logging.getLogger(__name__)

S3DIFF_REPOSITORY = "zhangap/S3Diff"
SD_TURBO_REPOSITORY = "stabilityai/sd-turbo"
S3DIFF_FILES = ("s3diff.pkl", "de_net.pth")
SNAPSHOT_FILES = (
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
)
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
        return _user_folder(Path(chosen).expanduser(), origin)
    cached = hub_snapshot()
    if cached is not None:
        return _user_folder(cached, " (from the hub cache)")
    return _seeded() if device.startswith("cuda") else _mini()


def network_file(folder: Path, stem: str) -> Path | None:
    """The float32 safetensors of a component, else the fp16 ones, else None."""
    for suffix in (".safetensors", ".fp16.safetensors"):
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    return None


def weight_files(folder: Path) -> list[Path]:
    """The files that decide what a weights folder computes.

    Raises:
        PipelineError: One of them is missing.
    """
    snapshot = folder / "sd-turbo"
    found = [folder / name for name in S3DIFF_FILES] + [snapshot / n for n in SNAPSHOT_FILES]
    for component, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        file = network_file(snapshot / component, stem)
        found.append(file or snapshot / component / f"{stem}.safetensors")
    for path in found:
        if not path.is_file():
            raise PipelineError(
                f"{path}: missing; a weights folder holds sd-turbo/, s3diff.pkl and de_net.pth "
                "(`srbench weights fetch` downloads them)"
            )
    return found


def file_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of each weight file by its path in the folder.

    Remembered in the cache by path, size and modification time, so that gigabytes are read once.

    Raises:
        PipelineError: A file is missing or cannot be read.
    """
    remembered = cache_folder() / "hashes.json"
    known: dict[str, str] = {}
    with suppress(OSError, ValueError):
        known = json.loads(remembered.read_text(encoding="utf-8"))
    before = len(known)
    hashes = {}
    for path in weight_files(folder):
        try:
            status = path.stat()
            key = f"{path.resolve()}|{status.st_size}|{status.st_mtime_ns}"
            if key not in known:
                with path.open("rb") as file:
                    known[key] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise PipelineError(f"{path}: cannot be read ({error.strerror})") from error
        hashes[str(path.relative_to(folder))] = known[key]
    if len(known) > before:
        with suppress(OSError):  # a read-only cache only costs hashing again
            _replace_text(remembered, json.dumps(known, indent=1))
    return hashes


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
        raise PipelineError(_unwritable(folder, error)) from error
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


def _user_folder(folder: Path, origin: str) -> WeightsSource:
    if not folder.is_dir():
        raise PipelineError(
            f"{folder}: no such weights folder{origin}; give a folder, `mini` or `synthetic`"
        )
    hashes = file_hashes(folder)
    listing = "\n".join(f"{name} {value}" for name, value in sorted(hashes.items()))
    digest = hashlib.sha256(listing.encode()).hexdigest()
    return WeightsSource(path=folder, kind="folder", digest=digest, synthetic=False)


def _mini() -> WeightsSource:
    try:
        with MINI.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise PipelineError(f"{MINI}: cannot be read ({error.strerror})") from error
    folder = _cached(f"mini-{digest[:16]}", ["pipelines.s3diff.mini.unpack"], 0)
    return WeightsSource(path=folder, kind="mini", digest=digest, synthetic=False)


def _seeded() -> WeightsSource:
    plan = recipe("full")
    command = ["pipelines.s3diff.synthesize", "--size", "full"]
    folder = _cached(f"full-{plan.digest[:16]}", command, _FULL_BYTES)
    return WeightsSource(path=folder, kind="synthetic", digest=plan.digest, synthetic=True)


def _cached(name: str, module: list[str], needed_bytes: int) -> Path:
    """A weights folder in the cache, made by a module that takes `--out` where it is not there."""
    folder = cache_folder() / "weights" / name
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(folder):
                if not folder.is_dir():
                    _materialise(folder, module, needed_bytes)
        except OSError as error:
            raise PipelineError(_unwritable(folder, error)) from error
    return folder


def _materialise(folder: Path, module: list[str], needed_bytes: int) -> None:
    """Write weights in a process of its own: this one stays free of torch."""
    free = shutil.disk_usage(folder.parent).free
    if free < needed_bytes:
        raise PipelineError(
            f"{folder.parent}: synthetic weights need {needed_bytes / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free; point SRBENCH_CACHE elsewhere or use --weights mini"
        )
    logger.info("writing %s", folder)
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as temporary:
        made = Path(temporary) / "weights"
        result = subprocess.run(
            [sys.executable, "-m", *module, "--out", str(made)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            last = (result.stderr.strip().splitlines() or ["no message"])[-1]
            raise PipelineError(f"{folder}: the weights could not be written ({last})")
        made.rename(folder)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _replace_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(
        "w", dir=path.parent, prefix=".writing-", delete=False, encoding="utf-8"
    ) as file:
        file.write(text)
    Path(file.name).replace(path)


def _unwritable(folder: Path, error: OSError) -> str:
    return (
        f"{folder}: the cache cannot be written ({error.strerror or error}); "
        "point SRBENCH_CACHE to a folder that can"
    )
