"""A user's weights folder: the snapshot in it and its identity; torch-free."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from pipelines.cache import cache_folder
from pipelines.contract import PipelineError, WeightsSource
from pipelines.replacing import replacing

SNAPSHOT = "sd-turbo"
"""Folder of the diffusers snapshot."""
SNAPSHOT_FILES = (
    "unet/config.json",
    "vae/config.json",
    "text_encoder/config.json",
    "tokenizer/vocab.json",
    "tokenizer/merges.txt",
)
COMPONENTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
"""Component of the snapshot -> stem of its tensors' file."""


def network_file(folder: Path, stem: str) -> Path | None:
    """The float32 safetensors of a component, else the fp16 ones, else None."""
    for suffix in (".safetensors", ".fp16.safetensors"):
        if (folder / f"{stem}{suffix}").is_file():
            return folder / f"{stem}{suffix}"
    return None


def snapshot_files(folder: Path) -> list[Path]:
    """The files of the snapshot that decide what a weights folder computes; they may be missing."""
    snapshot = folder / SNAPSHOT
    found = [snapshot / name for name in SNAPSHOT_FILES]
    for component, stem in COMPONENTS.items():
        file = network_file(snapshot / component, stem)
        found.append(file or snapshot / component / f"{stem}.safetensors")
    return found


def hash_files(folder: Path, files: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file by its path in the folder.

    Remembered in the cache by path, size and modification time, so that gigabytes are read once.

    Raises:
        PipelineError: A file cannot be read.
    """
    remembered = cache_folder() / "hashes.json"
    known: dict[str, str] = {}
    with suppress(OSError, ValueError):
        known = json.loads(remembered.read_text(encoding="utf-8"))
    before = len(known)
    hashes = {}
    for path in files:
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
            remembered.parent.mkdir(parents=True, exist_ok=True)
            with replacing(remembered) as file:
                file.write(json.dumps(known, indent=1).encode())
    return hashes


def user_folder(
    folder: Path, origin: str, hashes_of: Callable[[Path], Mapping[str, str]]
) -> WeightsSource:
    """A folder of the user's own.

    Args:
        folder: As given.
        origin: Where it was given, for messages.
        hashes_of: SHA-256 of each of its files.

    Raises:
        PipelineError: There is no such folder, or `hashes_of` refuses it.
    """
    if not folder.is_dir():
        raise PipelineError(
            f"{folder}: no such weights folder{origin}; give a folder, `mini` or `synthetic`"
        )
    listing = "\n".join(f"{name} {value}" for name, value in sorted(hashes_of(folder).items()))
    digest = hashlib.sha256(listing.encode()).hexdigest()
    return WeightsSource(path=folder, kind="folder", digest=digest, synthetic=False)
