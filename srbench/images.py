"""Image files: anything a user has becomes uint8 RGB, or a one-line error."""

from __future__ import annotations

import io
import logging
import os
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.contract import PipelineError
from pipelines.pictures import (
    SUFFIXES,
    colour_profile,
    find_pictures,
    list_pictures,
    read_picture,
)
from srbench.colour_profiles import carry
from srbench.errors import UsageError

__all__ = [
    "SUFFIXES",
    "encode_image",
    "find_images",
    "folders_of_images",
    "image_profile",
    "list_images",
    "place_file",
    "read_image",
    "write_image",
]

logger = logging.getLogger(__name__)

_WITH_PROFILE = ("PNG", "JPEG", "TIFF", "WEBP")


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder, by name.

    Raises:
        UsageError: The folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    found = list_pictures(folder)
    if not found and (inside := folders_of_images(folder)):
        raise UsageError(f"{folder}: no image in it, but in {inside[0].name}; name such a folder")
    return _some(found, folder)


def folders_of_images(folder: Path) -> list[Path]:
    """Folders in a folder that hold images themselves."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and list_pictures(path))


def find_images(folder: Path, leave_out: Path | None = None) -> tuple[list[Path], int]:
    """Image files of a folder and of those in it, and how many files are none.

    Args:
        folder: Where to look; see `pipelines.pictures.find_pictures`.
        leave_out: A folder inside it that is not entered.

    Raises:
        UsageError: There is no image, or a folder cannot be read.
    """
    try:
        found, others = find_pictures(folder, leave_out)
    except PipelineError as error:
        raise UsageError(str(error)) from error
    return _some(found, folder), others


def _some(found: list[Path], folder: Path) -> list[Path]:
    if not found:
        raise UsageError(f"{folder}: no image in it (looked for {', '.join(SUFFIXES)})")
    return found


def read_image(path: Path) -> NDArray[np.uint8]:
    """Read a file as [H, W, 3] RGB.

    16-bit values are divided by 257 and rounded, greyscale and palettes become RGB, the EXIF
    orientation is applied, and alpha is dropped onto white with a warning in the log.

    Raises:
        UsageError: Missing, empty, truncated, no image, of an unsupported depth, or far too large.
    """
    try:
        return read_picture(path, lambda line: logger.warning("srbench: %s", line))
    except PipelineError as error:
        raise UsageError(str(error)) from error


def image_profile(path: Path, target: Path) -> bytes | None:
    """The ICC profile that a picture made of a file should carry; what is lost is logged.

    Args:
        path: The file, whose pixel values are processed as stored.
        target: Where the picture goes; its format must have room for a profile.

    Raises:
        UsageError: As `read_image`.
    """
    try:
        embedded = colour_profile(path)
    except PipelineError as error:
        raise UsageError(str(error)) from error
    if embedded is None:
        return None
    carried = carry(embedded)
    if carried.note:
        logger.warning("srbench: %s: %s", path, carried.note)
    if carried.profile is not None and _format(target) not in _WITH_PROFILE:
        logger.warning("srbench: %s: has no room for the input's colour profile; use .png", target)
        return None
    return carried.profile


def encode_image(path: Path, pixels: NDArray[np.uint8], profile: bytes | None = None) -> bytes:
    """The content of a file of [H, W, 3] RGB in the format that its suffix names.

    JPEG has quality 95 without chroma subsampling, all else is lossless.

    Args:
        path: Of the file, which is not touched.
        pixels: [H, W, 3] RGB.
        profile: ICC, for a format that has room for one.

    Raises:
        UsageError: The suffix names no format, or one that cannot hold this picture.
    """
    kind = _format(path)
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    if kind == "WEBP":
        options = {"lossless": True}
    if profile is not None and kind in _WITH_PROFILE:
        options["icc_profile"] = profile
    content = io.BytesIO()
    try:
        Image.fromarray(pixels).save(content, format=kind, **options)
    except (OSError, ValueError) as error:
        height, width = pixels.shape[:2]
        raise UsageError(
            f"{path}: {width}x{height} pixels cannot be stored as {kind} "
            f"({' '.join(str(error).split())}); use .png"
        ) from error
    return content.getvalue()


def _format(path: Path) -> str:
    """Pillow's name of the format that a suffix stands for."""
    Image.init()
    kind = Image.EXTENSION.get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise UsageError(f"{path}: cannot write '{path.suffix}' files; use .png")
    return kind


def place_file(path: Path, content: bytes, temporary: Path) -> None:
    """Write a file so that it appears whole or not at all, also after a power cut.

    Args:
        path: Of the file.
        content: Of it.
        temporary: Another path in its folder, which nobody else writes.

    Raises:
        OSError: It cannot be written; an older file is untouched.
    """
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_image(path: Path, pixels: NDArray[np.uint8], profile: bytes | None = None) -> None:
    """Write [H, W, 3] RGB; the file appears whole or not at all.

    Args:
        path: Of the file, whose suffix names the format.
        pixels: [H, W, 3] RGB.
        profile: ICC, embedded where the format has room for one.

    Raises:
        UsageError: As `encode_image`, or the folder is missing or not writable.
    """
    content = encode_image(path, pixels, profile)
    try:
        place_file(path, content, path.with_name(f".{secrets.token_hex(8)}.part"))
    except OSError as error:
        raise UsageError(f"{path}: cannot write ({error.strerror or error})") from error
