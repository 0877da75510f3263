"""The calibration set: crops of photographs and what a degradation leaves of them.

Published: 500 pairs of 128 and 512 px, each a random aligned crop, most of them reduced by bicubic
interpolation; here photographs give crops that never overlap, degraded realistically by default.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipelines.contract import PipelineError
from pipelines.degradations import Settings as Degradation
from pipelines.degradations import degrade
from pipelines.passionsr.calibration.schedule import Degrading
from pipelines.photographs import HELD_OUT
from pipelines.pictures import SUFFIXES, find_pictures, picture_size, read_picture

FEWEST = 4
"""Pairs that a range can be taken of: the batch of the published statistics."""
_LATENT_PX = 8

Rgb = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetSettings:
    """What a calibration set is made of.

    Attributes:
        images: Pairs.
        side: Of the crops, in pixels of the high-resolution picture; 512 published.
        scale: LR sides are as many times smaller.
        degrading: `realistic` in two orders (Real-ESRGAN, as S3Diff is trained), or `plain`
            bicubic reduction.
        seed: Of places and degradations.
    """

    images: int = 32
    side: int = 512
    scale: int = 4
    degrading: Degrading = Degrading.REALISTIC
    seed: int = 42

    def __post_init__(self) -> None:
        if self.images < FEWEST:
            raise PipelineError(f"--images {self.images}: ranges need at least {FEWEST} pictures")
        multiple = _LATENT_PX * self.scale
        if self.scale < 1 or self.side < multiple or self.side % multiple:
            raise PipelineError(f"--side {self.side}: must be a multiple of {multiple}")


@dataclass(frozen=True, slots=True)
class Crop:
    """Where a pair comes from.

    Attributes:
        photograph: Its file.
        top: First row.
        left: First column.
        seed: Of its degradation.
    """

    photograph: Path
    top: int
    left: int
    seed: int

    @property
    def name(self) -> str:
        """For people: file and place."""
        return f"{self.photograph.name} at {self.left},{self.top}"


@dataclass(frozen=True, slots=True)
class Pair:
    """A low-resolution picture and what it was: uint8 RGB, [h, w, 3] and [H, W, 3]."""

    lr: Rgb
    hr: Rgb


@dataclass(frozen=True, slots=True)
class CalibrationSet:
    """Crops of photographs, read and degraded one at a time.

    Attributes:
        settings: Of the set.
        crops: In the order of their numbers.
    """

    settings: SetSettings
    crops: tuple[Crop, ...]

    def __len__(self) -> int:
        return len(self.crops)

    def pair(self, number: int) -> Pair:
        """Pair `number`, the same at every call."""
        crop, side = self.crops[number], self.settings.side
        pixels = _photograph(crop.photograph)
        hr = pixels[crop.top : crop.top + side, crop.left : crop.left + side]
        return Pair(_degraded(hr, self.settings, crop.seed), np.ascontiguousarray(hr))

    def fingerprint(self) -> str:
        """SHA-256 of the photographs' bytes, the crops and the settings; no path is part of it."""
        digests = {}
        for path in self.photographs():
            with path.open("rb") as file:
                digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
        places = [[digests[c.photograph], c.top, c.left, c.seed] for c in self.crops]
        document = json.dumps([asdict(self.settings), places])
        return hashlib.sha256(document.encode()).hexdigest()

    def photographs(self) -> list[Path]:
        """Files that crops are from, each once."""
        return list(dict.fromkeys(crop.photograph for crop in self.crops))


def installed_photographs() -> list[Path]:
    """Free photographs that come with scikit-image, which is installed wherever this runs."""
    folder = Path(str(files("skimage"))) / "data"
    names = (name for group in HELD_OUT.values() for name in group)
    return [folder / name for name in names if (folder / name).is_file()]


def find_photographs(folder: Path) -> list[Path]:
    """Pictures of a folder, searched to its depths.

    Raises:
        PipelineError: No such folder, or no picture in it.
    """
    if not folder.is_dir():
        raise PipelineError(f"{folder}: no such folder; expected one of photographs")
    paths, others = find_pictures(folder)
    if not paths:
        raise PipelineError(
            f"{folder}: {f'none of {others} files is' if others else 'empty, expected'} "
            f"a picture ({' '.join(SUFFIXES)})"
        )
    return paths


def check_files(photographs: Sequence[Path], held_out: Sequence[Path], out: Path) -> None:
    """Refuse before anything is computed what would make it worthless.

    Raises:
        PipelineError: The file cannot be written, or photographs are held out that are not.
    """
    ours = {path.resolve() for path in photographs}
    for photograph in held_out:
        if photograph.resolve() in ours:
            raise PipelineError(f"--held-out: {photograph} is calibrated on; give others")
    there = next(parent for parent in out.absolute().parents if parent.exists())
    if out.is_dir() or not there.is_dir() or not os.access(there, os.W_OK):
        raise PipelineError(f"--out {out}: cannot be written; give a file in a folder that can")


def choose_crops(paths: Sequence[Path], settings: SetSettings) -> CalibrationSet:
    """Draw crops that do not overlap, as evenly from all photographs as their sizes allow.

    Args:
        paths: Photographs.
        settings: Of the set.

    Raises:
        PipelineError: One is smaller than a crop or is broken, or all together have room for fewer
            crops than asked for.
    """
    draw = np.random.default_rng(settings.seed)
    places = [_places(path, settings.side, draw) for path in paths]
    room = sum(map(len, places))
    if room < settings.images:
        raise PipelineError(
            f"{os.path.commonpath(paths)}: {len(paths)} photographs have room for {room} crops of "
            f"{settings.side}x{settings.side} px, {settings.images} are asked for; give more "
            "photographs, or a smaller --images or --side"
        )
    chosen: list[tuple[Path, int, int]] = []
    while len(chosen) < settings.images:
        for index in draw.permutation(len(paths)):
            if places[index]:
                chosen.append((paths[index], *places[index].pop()))
    seeds = draw.integers(2**63, size=settings.images)
    crops = zip(chosen[: settings.images], seeds.tolist(), strict=True)
    return CalibrationSet(settings, tuple(Crop(*place, seed) for place, seed in crops))


def _places(path: Path, side: int, draw: np.random.Generator) -> list[tuple[int, int]]:
    """Top and left of all cells of a grid of crops that is moved at random, in random order."""
    height, width = picture_size(path)
    if min(height, width) < side:
        raise PipelineError(
            f"{path}: {width}x{height} px, smaller than a crop of {side}x{side}; take the file "
            "out, or give a smaller --side"
        )
    rows, columns = (_starts(length, side, draw) for length in (height, width))
    cells = [(top, left) for top in rows for left in columns]
    return [cells[index] for index in draw.permutation(len(cells))]


def _starts(length: int, side: int, draw: np.random.Generator) -> list[int]:
    first = int(draw.integers(length % side + 1))
    return list(range(first, length - side + 1, side))


@lru_cache(maxsize=2)
def _photograph(path: Path) -> Rgb:
    return read_picture(path)


def _degraded(hr: Rgb, settings: SetSettings, seed: int) -> Rgb:
    height, width = (length // settings.scale for length in hr.shape[:2])
    if settings.degrading is Degrading.PLAIN:
        return np.array(Image.fromarray(hr).resize((width, height), Image.Resampling.BICUBIC))
    planes = torch.from_numpy(np.ascontiguousarray(hr)).permute(2, 0, 1)[None].float() / 255
    lr = degrade(planes, Degradation(scale=settings.scale), [seed])[0]
    return (lr * 255).round().clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy()
