"""Training photographs: random crops whose choice depends on the seed and the item's number alone.

Published (spec section 6, "Data"): all PNGs of LSDIR and the first 10,000 faces of FFHQ, in one
shuffled list; a picture that is too small or compressed too much is replaced by a random other one.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pipelines.contract import PipelineError
from pipelines.pictures import SUFFIXES, Note, find_pictures, picture_size, read_picture

_NAMED = 5
"""Files that are named before they are only counted."""
_CACHE_BYTES = 2**29

logger = logging.getLogger(__name__)

Rgb = NDArray[np.uint8]


class Sample(NamedTuple):
    """One photograph's crop; torch's loader collates it to [B, 3, crop, crop], B names, B seeds.

    Attributes:
        hr: [3, crop, crop] float32 RGB in [0, 1].
        name: Of its file, with its folders.
        seed: For `pipelines.degradations.degrade`.
    """

    hr: torch.Tensor
    name: str
    seed: int


@dataclass(frozen=True, slots=True)
class Root:
    """A folder of photographs, searched with all folders in it.

    Attributes:
        path: The folder.
        limit: Only so many, the first by path; None for all.
    """

    path: Path
    limit: int | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """Which photographs are good enough.

    Attributes:
        min_area_px: Height times width.
        min_bytes: Of the file; a small one is compressed too much.
    """

    min_area_px: int = 384 * 384
    min_bytes: int = 100 * 1024

    @property
    def violation(self) -> str:
        """What is left out, in words."""
        return f"fewer than {self.min_area_px} pixels or {self.min_bytes} bytes"


@dataclass(frozen=True, slots=True)
class Photo:
    """A file that can be used: its name with its folders, and its bytes."""

    path: Path
    name: str
    file_bytes: int


def find_photos(roots: Sequence[Root], rule: Rule, note: Note) -> list[Photo]:
    """Photographs of all roots, in the order of roots and paths, judged by their headers.

    Args:
        roots: Where to look.
        rule: What is left out.
        note: Told what is left out, and which files are broken.

    Raises:
        PipelineError: A root is no folder or has no picture, or nothing of all can be used.
    """
    files = [photo for root in roots for photo in _listed(root)]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        areas = list(pool.map(_area, files))
    broken = [area for area in areas if isinstance(area, PipelineError)]
    for error in broken[:_NAMED]:
        note(f"warning: {error}; skipped")
    if len(broken) > _NAMED:
        note(f"warning: {len(broken) - _NAMED} more pictures are broken and skipped")
    good = [
        photo
        for photo, area in zip(files, areas, strict=True)
        if isinstance(area, int) and area >= rule.min_area_px and photo.file_bytes >= rule.min_bytes
    ]
    small = len(files) - len(broken) - len(good)
    where = ", ".join(str(root.path) for root in roots)
    if not good:
        raise PipelineError(
            f"{where}: no picture can be used: {len(broken)} of {len(files)} are broken, {small} "
            f"have {rule.violation}; give larger photographs or lower these limits"
        )
    if small:
        note(f"{where}: {small} of {len(files)} pictures left out, with {rule.violation}")
    return good


def fingerprint(photos: Sequence[Photo]) -> str:
    """Of all names and sizes, so that a run is not continued on other data."""
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(f"{photo.name}\n{photo.file_bytes}\n".encode())
    return digest.hexdigest()[:16]


class PhotoDataset(Dataset[Sample]):
    """Random crops; item `n` is the same in every process and after every resume, for any n >= 0.

    Each stretch of `len(dataset)` items sees every photograph once, in a new order. One that
    cannot be decoded is named once and replaced by others, drawn by the same seed.

    Decoded photographs are kept until `cache_bytes` are full and then no more: where not all fit, a
    cache that drops the oldest would hold none of those that the next round begins with.

    Args:
        photos: Of `find_photos`.
        crop: Side of the crops; smaller photographs are reflected at the bottom and on the right.
        seed: Of all choices.
        note: Told which photographs cannot be decoded.
        cache_bytes: Memory for decoded photographs, in each process that loads them.
    """

    def __init__(
        self,
        photos: Sequence[Photo],
        crop: int,
        *,
        seed: int,
        note: Note = logger.warning,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        self._photos, self._crop, self._seed = list(photos), crop, seed
        self._note, self._free_bytes = note, cache_bytes
        self._cached: dict[int, Rgb] = {}
        self._broken: set[int] = set()

    def __len__(self) -> int:
        """Photographs; items may be numbered on beyond."""
        return len(self._photos)

    def __getitem__(self, number: int) -> Sample:
        """Item `number` (not negative) of the endless sequence of this seed.

        Raises:
            PipelineError: No photograph at all can be decoded.
        """
        draw = np.random.default_rng((self._seed, number))
        seed = int(draw.integers(2**63))
        mirrored = bool(draw.random() < 0.5)
        place = draw.random(2)
        index, pixels = self._decoded(number, draw)
        crop = _cropped(pixels[:, ::-1] if mirrored else pixels, self._crop, place)
        planes = np.ascontiguousarray(crop.transpose(2, 0, 1), np.float32) / np.float32(255)
        return Sample(torch.from_numpy(planes), self._photos[index].name, seed)

    def _decoded(self, number: int, draw: np.random.Generator) -> tuple[int, Rgb]:
        """The item's photograph, or the first random other one that can be decoded."""
        count = len(self._photos)
        index = int(_order(self._seed, number // count, count)[number % count])
        while True:
            pixels = self._pixels(index)
            if pixels is not None:
                return index, pixels
            if len(self._broken) == count:
                raise PipelineError(
                    f"{self._photos[index].path}: not one of {count} pictures can be decoded"
                )
            index = int(draw.integers(count))

    def _pixels(self, index: int) -> Rgb | None:
        if index in self._cached:
            return self._cached[index]
        if index in self._broken:
            return None
        try:
            pixels = read_picture(self._photos[index].path)
        except PipelineError as error:
            self._broken.add(index)
            self._note(f"warning: {error}; skipped")
            return None
        if pixels.nbytes <= self._free_bytes:
            self._free_bytes -= pixels.nbytes
            self._cached[index] = pixels
        return pixels


def _listed(root: Root) -> list[Photo]:
    if not root.path.is_dir():
        raise PipelineError(f"{root.path}: no such folder; expected one of training photographs")
    paths, others = find_pictures(root.path)
    if not paths:
        raise PipelineError(
            f"{root.path}: {f'none of {others} files is' if others else 'empty, expected'} "
            f"a picture ({' '.join(SUFFIXES)})"
        )
    folder = root.path.absolute().name
    return [
        Photo(path, f"{folder}/{path.relative_to(root.path).as_posix()}", path.stat().st_size)
        for path in paths[: root.limit]
    ]


def _area(photo: Photo) -> int | PipelineError:
    try:
        height, width = picture_size(photo.path)
    except PipelineError as error:
        return error
    return height * width


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, count: int) -> NDArray[np.int64]:
    """A permutation; the published loader shuffles, it does not draw with replacement."""
    return np.random.default_rng((seed, epoch, count)).permutation(count)


def _cropped(pixels: Rgb, side: int, place: NDArray[np.float64]) -> Rgb:
    """[side, side, 3] at a place in [0, 1)^2 of all that fit."""
    height, width = pixels.shape[:2]
    if height < side or width < side:
        missing = (0, max(0, side - height)), (0, max(0, side - width)), (0, 0)
        pixels = np.pad(pixels, missing, mode="reflect")
        height, width = pixels.shape[:2]
    top, left = (int(p * (n - side + 1)) for p, n in zip(place, (height, width), strict=True))
    return pixels[top : top + side, left : left + side]
