"""Pictures of the calibration that are part of an evaluation set.

Numbers on pictures that the bounds were fitted to say nothing; the published calibration set shares
a region with DRealSR's test set. Two searches: a perceptual hash finds whole pictures that were
resized or compressed, a rolling hash finds regions that are equal pixel by pixel. Mirrored
pictures are other ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.fft import dctn

from pipelines.contract import PipelineError
from pipelines.passionsr.calibration.set import CalibrationSet
from pipelines.pictures import Note, find_pictures, read_picture

Rgb = NDArray[np.uint8]

_THUMBNAIL = 32
_FREQUENCIES = 8
_HAMMING = 12
"""Of 64 bits: copies through resizing and JPEG stay below 12, unrelated pictures differ in 32."""
_DETAIL = 16
"""Frequencies that copies are compared in, without the smoothest and all that vary one way alone:
every clear sky and every black border has the same ones."""
_CORRELATION = 0.85
"""Of details: copies are above, unrelated pictures below 0.7."""
_FAINTEST = 1.0
"""Grey levels (rms) of detail that a picture is known again by."""
_BLOCK = 16
_REGION = 32
"""Side of an equal region that is a leak (all of a smaller picture); every square of 31 holds a
whole block of the grid."""
_TEXTURE = 12
"""Levels in a block at least, and not along one axis alone: skies and borders are equal in pictures
of anything."""
_ROWS, _COLUMNS = np.indices((_DETAIL, _DETAIL))
_COUNTED = (np.minimum(_ROWS, _COLUMNS) > 0) & (_ROWS + _COLUMNS > 3)
_STRIP = 512
_MIXER = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLIERS = np.uint64(2862933555777941757), np.uint64(6364136223846793005)
_NAMED = 3
"""Leaks that are named before they are only counted."""


@dataclass(frozen=True, slots=True)
class Leak:
    """What a calibration picture shares with an evaluation picture.

    Attributes:
        photograph: File of the calibration.
        evaluation: File of an evaluation set.
        what: In words.
    """

    photograph: Path
    evaluation: Path
    what: str

    def __str__(self) -> str:
        return f"{self.photograph} {self.what} {self.evaluation}"


def check_leaks(
    calibration: CalibrationSet, folders: Sequence[Path], *, allow: bool, note: Note
) -> None:
    """Compare all photographs and crops with all evaluation pictures.

    Args:
        calibration: Its crops, and the whole photographs that they are from.
        folders: Of evaluation pictures, searched to their depths.
        allow: Only tell `note` of leaks.
        note: Told.

    Raises:
        PipelineError: There is a leak, or a folder has no picture.
    """
    evaluation = Evaluation.read(folders)
    leaks = find_leaks(calibration, evaluation)
    for leak in leaks if allow else []:
        note(f"warning: {leak}")
    if leaks and not allow:
        more = f"; and {len(leaks) - _NAMED} more" if len(leaks) > _NAMED else ""
        raise PipelineError(
            f"{'; '.join(map(str, leaks[:_NAMED]))}{more}: calibrate on other photographs, or "
            "give --allow-leaks"
        )


class Evaluation:
    """Evaluation pictures in the forms that are compared; regions are read again when they match.

    Args:
        paths: Of the pictures.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths, self.looks, parts = list(paths), [], []
        for path in paths:
            pixels = read_picture(path)
            self.looks.append(_Look.of(pixels))
            parts.append(_grid_blocks(pixels))
        owners = np.repeat(np.arange(len(paths)), [len(hashes) for hashes, _ in parts])
        hashes = np.concatenate([hashes for hashes, _ in parts])
        order = np.argsort(hashes, kind="stable")
        self.hashes, self.owners = hashes[order], owners[order]
        self.places = np.concatenate([places for _, places in parts])[order]

    @classmethod
    def read(cls, folders: Sequence[Path]) -> Evaluation:
        """All pictures of some folders.

        Raises:
            PipelineError: One has no picture, or a picture is broken.
        """
        paths: list[Path] = []
        for folder in folders:
            if not folder.is_dir():
                raise PipelineError(f"{folder}: no such folder; --evaluation expects pictures")
            found, _ = find_pictures(folder)
            if not found:
                raise PipelineError(f"{folder}: no pictures; --evaluation expects some")
            paths += found
        return cls(paths)


def find_leaks(calibration: CalibrationSet, evaluation: Evaluation) -> list[Leak]:
    """Every photograph of the set with each evaluation picture that it shares something with."""
    leaks = []
    looks: dict[Path, list[_Look]] = {path: [] for path in calibration.photographs()}
    for number, crop in enumerate(calibration.crops):
        pair = calibration.pair(number)
        looks[crop.photograph] += [_Look.of(pair.hr), _Look.of(pair.lr)]
    for photograph, crops in looks.items():
        pixels = read_picture(photograph)
        copies = [_Look.of(pixels), *crops]
        for path, look in zip(evaluation.paths, evaluation.looks, strict=True):
            if any(look.is_copy_of(other) for other in copies):
                leaks.append(Leak(photograph, path, "is, or was cropped to, the same picture as"))
        known = {leak.evaluation for leak in leaks if leak.photograph == photograph}
        for path in _shared_regions(pixels, evaluation):
            if path not in known:
                known.add(path)
                what = "shares a region, pixel by pixel, with"
                leaks.append(Leak(photograph, path, what))
    return leaks


@dataclass(frozen=True, slots=True)
class _Look:
    """A picture small: its DCT hash (Zauner 2010) and the standardised details behind it."""

    bits: int
    detail: NDArray[np.float64]

    @classmethod
    def of(cls, pixels: Rgb) -> _Look:
        image = Image.fromarray(pixels).convert("L")
        small = image.resize((_THUMBNAIL, _THUMBNAIL), Image.Resampling.LANCZOS)
        grey = np.asarray(small, np.float64)
        spectrum = dctn(grey, norm="ortho")
        low = spectrum[:_FREQUENCIES, :_FREQUENCIES].ravel()
        signs = low > np.median(low[1:])
        bits = int.from_bytes(np.packbits(signs).tobytes(), "big")
        detail = (spectrum[:_DETAIL, :_DETAIL] * _COUNTED).ravel()
        size = float(np.linalg.norm(detail))
        return cls(bits, detail / size if size > _FAINTEST * _THUMBNAIL else 0 * detail)

    def is_copy_of(self, other: _Look) -> bool:
        """Whether both show the same, up to size, compression and brightness."""
        if (self.bits ^ other.bits).bit_count() > _HAMMING:
            return False
        return float(self.detail @ other.detail) > _CORRELATION


def _packed(pixels: Rgb) -> NDArray[np.uint64]:
    """All three channels of each pixel in one number."""
    red, green, blue = (pixels[..., channel].astype(np.uint64) for channel in range(3))
    packed: NDArray[np.uint64] = (red * np.uint64(256) + green) * np.uint64(256) + blue
    return packed


def _window_hashes(packed: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Polynomial hash modulo 2^64 of each block at every alignment, [H - 15, W - 15]."""
    mixed = (packed + np.uint64(1)) * _MIXER
    mixed ^= mixed >> np.uint64(29)
    for axis, multiplier in enumerate(_MULTIPLIERS):
        length = mixed.shape[axis] - _BLOCK + 1
        total = np.zeros_like(mixed.take(range(length), axis))
        for offset in range(_BLOCK):
            part = mixed[:, offset : offset + length] if axis else mixed[offset : offset + length]
            total = total * multiplier + part
        mixed = total ^ total >> np.uint64(31)
    return mixed


def _grid_blocks(pixels: Rgb) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes and places of the textured blocks of a grid, [n] and [n, 2]."""
    height, width = pixels.shape[:2]
    if min(height, width) < _BLOCK:
        return np.empty(0, np.uint64), np.empty((0, 2), np.int64)
    hashes = _window_hashes(_packed(pixels))[::_BLOCK, ::_BLOCK]
    places = np.argwhere(np.ones(hashes.shape, bool)) * _BLOCK
    blocks = (pixels[top : top + _BLOCK, left : left + _BLOCK, 1] for top, left in places)
    textured = [_is_textured(block) for block in blocks]
    return hashes.ravel()[textured], places[textured]


def _is_textured(block: NDArray[np.uint8]) -> bool:
    ramp = (block == block[:1]).all() or (block == block[:, :1]).all()
    return len(np.unique(block)) >= _TEXTURE and not ramp


def _shared_regions(pixels: Rgb, evaluation: Evaluation) -> Iterator[Path]:
    """Evaluation pictures that a photograph shares a square of `_REGION` with."""
    tried: set[tuple[int, int, int]] = set()
    for top, left, match in _matches(pixels, evaluation):
        owner = int(evaluation.owners[match])
        row, column = evaluation.places[match]
        offset = int(top - row), int(left - column)
        if (owner, *offset) in tried:
            continue
        tried.add((owner, *offset))
        path = evaluation.paths[owner]
        if _equal_square(pixels, read_picture(path), offset):
            yield path


def _matches(pixels: Rgb, evaluation: Evaluation) -> Iterator[tuple[int, int, int]]:
    """Rows and columns of blocks that an evaluation picture has too, with its entry's number."""
    if min(pixels.shape[:2]) < _BLOCK or not len(evaluation.hashes):
        return
    for start in range(0, pixels.shape[0] - _BLOCK + 1, _STRIP):
        hashes = _window_hashes(_packed(pixels[start : start + _STRIP + _BLOCK - 1]))
        first = np.searchsorted(evaluation.hashes, hashes)
        found = evaluation.hashes[np.minimum(first, len(evaluation.hashes) - 1)] == hashes
        for row, column in np.argwhere(found):
            entry = int(first[row, column])
            while entry < len(evaluation.hashes) and (
                evaluation.hashes[entry] == hashes[row, column]
            ):
                yield start + int(row), int(column), entry
                entry += 1


def _equal_square(a: Rgb, b: Rgb, offset: tuple[int, int]) -> bool:
    """Whether pixel (y, x) of b equals (y + top, x + left) of a all over a square of `_REGION`.

    Of a picture that is smaller, all over its shorter side.
    """
    (top, left), (height, width) = offset, b.shape[:2]
    side = min(_REGION, height, width)
    rows = slice(max(0, top), min(a.shape[0], top + height))
    columns = slice(max(0, left), min(a.shape[1], left + width))
    if min(rows.stop - rows.start, columns.stop - columns.start) < side:
        return False
    other = b[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
    equal = (a[rows, columns] == other).all(axis=-1)
    sums = np.pad(equal.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    far = sums[side:, side:] + sums[:-side, :-side]
    return bool((far - sums[side:, :-side] - sums[:-side, side:] == side**2).any())
