"""Picture files: anything a user has becomes uint8 RGB, or a one-line error."""

from __future__ import annotations

import os
import struct
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from pipelines.contract import PipelineError
from pipelines.replacing import replacing

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error, OverflowError, TypeError)
_WHITE_16 = 65535
_SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange the sides."""

Result = TypeVar("Result")
Note = Callable[[str], None]
"""Told one line for the user about something that was done or left out."""


def list_pictures(folder: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[Path]:
    """Picture files of a folder, by name; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in suffixes)


def find_pictures(folder: Path, leave_out: Path | None = None) -> tuple[list[Path], int]:
    """Picture files of a folder and of the folders in it.

    Hidden files are other files, and neither hidden folders nor links to folders are entered.

    Args:
        folder: Where to look.
        leave_out: A folder inside it that is not entered either.

    Returns:
        The pictures, sorted by the parts of their paths, and the number of other files.

    Raises:
        PipelineError: A folder cannot be read.
    """
    shut = None if leave_out is None else leave_out.resolve()
    found: list[Path] = []
    others = 0
    for top, folders, names in os.walk(folder, onerror=_refuse_folder):
        place = Path(top)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and (shut is None or (place / name).resolve() != shut)
        ]
        paths = [place / name for name in names]
        pictures = [p for p in paths if _is_shown(p) and p.is_file()]
        found += pictures
        others += len(paths) - len(pictures)
    return sorted(found, key=lambda path: path.parts), others


def _refuse_folder(error: OSError) -> None:
    raise PipelineError(f"{error.filename}: cannot be read ({error.strerror})") from error


def _is_shown(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def read_picture(path: Path, note: Note | None = None) -> NDArray[np.uint8]:
    """Read a file as [H, W, 3] RGB.

    16-bit values are divided by 257 and rounded, greyscale and palettes become RGB, the EXIF
    orientation is applied, and alpha is dropped onto white, which `note` is told.

    Raises:
        PipelineError: Missing, empty, truncated, no image, of an unsupported depth, or far too
            large.
    """
    pixels, orientation = _guarded(path, _decode)
    return np.ascontiguousarray(_to_rgb8(_orient(pixels, orientation), path, note))


def picture_size(path: Path) -> tuple[int, int]:
    """Height and width that `read_picture` would give, from the header alone.

    Raises:
        PipelineError: Missing, empty, no image, or far too large.
    """
    return _guarded(path, _header_size)


def colour_profile(path: Path) -> bytes | None:
    """The ICC profile embedded in a picture file, as stored; None without one.

    Raises:
        PipelineError: Missing, empty, no image, or far too large.
    """
    return _guarded(path, _stored_profile)


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write [H, W, 3] RGB; the file appears whole or not at all.

    Raises:
        PipelineError: It cannot be written.
    """
    try:
        with replacing(path) as file:
            Image.fromarray(pixels).save(file, format="PNG")
    except OSError as error:
        raise PipelineError(f"{path}: cannot write ({error.strerror or error})") from error


class _Strictness:
    """Pillow's warnings muted, but for bombs, which are errors.

    Filters are the process's, and threads read pictures: they are set by the first of those inside
    and put back by the last.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._filters = warnings.catch_warnings()

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
                warnings.simplefilter("error", Image.DecompressionBombWarning)
            self._inside += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._filters.__exit__(None, None, None)


_STRICT = _Strictness()


def _guarded(path: Path, read: Callable[[Path], Result]) -> Result:
    if path.is_dir():
        raise PipelineError(f"{path}: a folder, expected an image file")
    if not path.exists():
        raise PipelineError(f"{path}: no such file")
    try:
        if path.stat().st_size == 0:
            raise PipelineError(f"{path}: empty file, expected an image")
        with _STRICT:
            return read(path)
    except PermissionError as error:
        raise PipelineError(f"{path}: not readable ({error.strerror})") from error
    except UnidentifiedImageError as error:
        raise PipelineError(f"{path}: not an image, or of an unknown format") from error
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise PipelineError(
            f"{path}: more than {Image.MAX_IMAGE_PIXELS} pixels, refused as a possible "
            "decompression bomb; crop it first"
        ) from error
    except _BROKEN as error:
        raise PipelineError(f"{path}: truncated or damaged image ({_one_line(error)})") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _header_size(path: Path) -> tuple[int, int]:
    with Image.open(path) as image:
        width, height = image.size
        if image.format == "PNG" and "exif" not in image.info:
            return height, width  # Pillow would decode it all to look for EXIF data at its end
        sideways = image.getexif().get(ExifTags.Base.Orientation, 1) in _SIDEWAYS
        return (width, height) if sideways else (height, width)


def _stored_profile(path: Path) -> bytes | None:
    with Image.open(path) as image:
        profile = image.info.get("icc_profile")
    return bytes(profile) if profile else None


def _decode(path: Path) -> tuple[NDArray[Any], int]:
    """Pixels as stored ([H, W] or [H, W, channels], uint8 or uint16) and the EXIF orientation."""
    with Image.open(path) as image:
        wide = any(";16" in str(tile[3]) for tile in image.tile) and not image.mode.startswith("I")
        if wide:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            return _decode_16bit_colour(path), orientation
        image.load()
        # Some plugins apply the orientation while loading and clear the tag.
        orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
        if image.mode.startswith("I"):
            values = np.asarray(image)
            if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > _WHITE_16:
                raise ValueError("values beyond 16 bits")
            return values.astype(np.uint16), orientation
        if image.mode == "F":
            raise ValueError("floating-point pixels; convert it to 8 or 16 bits")
        has_alpha = "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "RGBa", "La")
        return np.asarray(image.convert("RGBA" if has_alpha else "RGB")), orientation


def _decode_16bit_colour(path: Path) -> NDArray[np.uint16]:
    """Colour files of 16 bits a channel, which Pillow would cut to the upper byte."""
    import cv2

    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    stored = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), flags)
    if stored is None or stored.dtype != np.uint16:
        raise ValueError("16-bit colour image that cannot be decoded")
    if stored.ndim == 3:
        order = [2, 1, 0, 3][: stored.shape[2]]
        stored = stored[..., order]
    return np.asarray(stored, dtype=np.uint16)


def _orient(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    match orientation:
        case 2:
            return pixels[:, ::-1]
        case 3:
            return pixels[::-1, ::-1]
        case 4:
            return pixels[::-1]
        case 5:
            return pixels.swapaxes(0, 1)
        case 6:
            return np.rot90(pixels, -1)
        case 7:
            return np.rot90(pixels, 2).swapaxes(0, 1)
        case 8:
            return np.rot90(pixels, 1)
    return pixels


def _to_rgb8(pixels: NDArray[Any], path: Path, note: Note | None) -> NDArray[np.uint8]:
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[..., None], 3, axis=2)
    if pixels.shape[2] == 3 and pixels.dtype == np.uint8:
        return np.array(pixels)  # Pillow's are read-only, which torch warns of
    top = np.iinfo(pixels.dtype).max
    values = pixels[..., :3].astype(np.float64)
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:].astype(np.float64) / top
        if note is not None:
            shown = alpha.min() < 1
            what = (
                "transparent parts are put onto white" if shown else "the alpha channel is dropped"
            )
            note(f"{path}: {what}")
        values = values * alpha + top * (1 - alpha)
    return np.asarray(np.rint(values * 255 / top), dtype=np.uint8)
