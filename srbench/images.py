"""Image files: anything a user has becomes uint8 RGB, or a one-line error."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pipelines.contract import PipelineError
from pipelines.pictures import SUFFIXES, list_pictures, read_picture, umask
from srbench.errors import UsageError

__all__ = ["SUFFIXES", "list_images", "read_image", "write_image"]

logger = logging.getLogger(__name__)


def list_images(folder: Path) -> list[Path]:
    """Image files of a folder, by name.

    Raises:
        UsageError: The folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such folder")
    found = list_pictures(folder)
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


def write_image(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write [H, W, 3] RGB; the file appears whole or not at all.

    Raises:
        UsageError: The suffix names no format, or the folder is missing or not writable.
    """
    Image.init()
    kind = Image.EXTENSION.get(path.suffix.lower())
    if kind is None or kind not in Image.SAVE:
        raise UsageError(f"{path}: cannot write '{path.suffix}' files; use .png")
    options: dict[str, Any] = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    if kind == "WEBP":
        options = {"lossless": True}
    temporary: Path | None = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
            temporary = Path(file.name)
            Image.fromarray(pixels).save(file, format=kind, **options)
        temporary.chmod(0o666 & ~umask())
        temporary.replace(path)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise UsageError(f"{path}: cannot write ({error.strerror or error})") from error
