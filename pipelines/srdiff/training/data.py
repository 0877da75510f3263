"""The data set of a run: pairs, their fingerprint, and what is validated on."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.matlab_resize import imresize, upsample_lr
from pipelines.pictures import Note
from pipelines.srdiff.dataset import Sample
from pipelines.srdiff.pairs import Pair, iterate_pairs, some_names
from pipelines.srdiff.sampling import to_levels
from pipelines.srdiff.windows import Rgb, hr_multiple

VALIDATION_SIDE = 256
"""Validation pictures are cropped to their middle; a sample of 100 steps should stay quick."""


@dataclass(frozen=True, slots=True)
class Picture:
    """The middle of a validation picture.

    Attributes:
        name: Of its file.
        hr: [H, W, 3].
        lr: [H / scale, W / scale, 3], reduced from `hr`.
        sample: Both as the networks take them, a batch of one.
    """

    name: str
    hr: Rgb
    lr: Rgb
    sample: Sample


def fingerprint(pairs: Sequence[Pair]) -> str:
    """Of the names and sizes of all files, so that a run is not continued on other data."""
    digest = hashlib.sha256()
    for pair in pairs:
        reduced = pair.lr.stat().st_size if pair.lr else 0
        digest.update(f"{pair.name}\n{pair.hr.stat().st_size} {reduced} {pair.scale}\n".encode())
    return digest.hexdigest()[:16]


def validation_pictures(pairs: Sequence[Pair], divisor: int, note: Note) -> list[Picture]:
    """Read validation pictures and keep their middles; `note` is told which are too small."""
    found, small = [], []
    for pair, hr, _ in iterate_pairs(pairs, note):
        if min(hr.shape[:2]) < 2 * hr_multiple(pair.scale):
            small.append(pair.name)
        else:
            found.append(_picture(pair, _middle(hr, hr_multiple(pair.scale)), divisor))
    if small:
        note(f"{len(small)} validation pictures are too small and left out: {some_names(small)}")
    return found


def to_rgb(picture: torch.Tensor) -> Rgb:
    """[3, H, W] in [-1, 1] -> [H, W, 3] uint8, rounded as published."""
    pixels: Rgb = to_levels(picture[None])[0].cpu().numpy()
    return pixels


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """RGB PSNR in dB over all pixels; 100 where they are equal."""
    mse = float(np.square(a.astype(np.float64) - b).mean())
    return min(100.0, 10 * float(np.log10(255**2 / mse))) if mse else 100.0


def lr_psnr(sr: Rgb, lr: Rgb, scale: int) -> float:
    """PSNR in dB between the reduced result and what it was made from."""
    return psnr(imresize(sr, Fraction(1, scale)), lr)


def _middle(picture: Rgb, multiple: int) -> Rgb:
    height, width = (min(s, VALIDATION_SIDE) // multiple * multiple for s in picture.shape[:2])
    top, left = ((s - kept) // 2 for s, kept in zip(picture.shape, (height, width), strict=False))
    return np.ascontiguousarray(picture[top : top + height, left : left + width])


def _picture(pair: Pair, hr: Rgb, divisor: int) -> Picture:
    lr = imresize(hr, Fraction(1, pair.scale))
    up = upsample_lr(lr, pair.scale, divisor=divisor)
    sample = Sample(_planes(2 * (hr / 255) - 1), _planes(2 * (lr / 255) - 1), _planes(up))
    return Picture(pair.name, hr, lr, sample)


def _planes(picture: NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1)[None], np.float32))
