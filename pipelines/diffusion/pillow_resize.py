"""Pillow's resampling of 8-bit pictures on any device, bit for bit.

`Image.resize` convolves along rows, then along columns (up to version 12 in this order always),
with weights of 22 fractional bits, and rounds to 8 bits after each (Pillow's `Resample.c`). So
integers of 32 bits give the same picture anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

_BITS = 22
Weigh = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel with a = -0.5, of support 2."""
    x = np.abs(x)
    near = (1.5 * x - 2.5) * x * x + 1
    far = ((-0.5 * x + 2.5) * x - 4) * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def lanczos(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sinc of the sinc, of support 3."""
    return np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0.0)


_SUPPORT: dict[Weigh, float] = {bicubic: 2.0, lanczos: 3.0}


class Taps(NamedTuple):
    """Which inputs make each output of one axis.

    Attributes:
        positions: [taps, outputs], int64.
        weights: [taps, outputs], int32, in units of 2^-22; 0 beyond a border.
    """

    positions: NDArray[np.int64]
    weights: NDArray[np.int32]


@lru_cache(maxsize=32)
def taps(inputs: int, outputs: int, weigh: Weigh) -> Taps:
    """The taps of an axis that is resampled from `inputs` to `outputs` pixels."""
    factor = inputs / outputs
    stretch = max(factor, 1.0)
    support = _SUPPORT[weigh] * stretch
    centres = (np.arange(outputs) + 0.5) * factor
    first = np.maximum(centres - support + 0.5, 0).astype(np.int64)
    stop = np.minimum((centres + support + 0.5).astype(np.int64), inputs)
    positions = first + np.arange(2 * math.ceil(support) + 1)[:, None]
    raw = weigh((positions - centres + 0.5) / stretch) * (positions < stop)
    exact = raw / raw.sum(axis=0) * 2**_BITS
    weights = np.trunc(exact + np.copysign(0.5, exact)).astype(np.int32)
    return Taps(np.minimum(positions, inputs - 1), weights)


def resize(pixels: torch.Tensor, height: int, width: int, weigh: Weigh) -> torch.Tensor:
    """Resample as `Image.resize((width, height))` does with the filter of that name.

    Args:
        pixels: [C, H, W], int32 in 0 .. 255.
        height: Wanted.
        width: Wanted.
        weigh: `bicubic` or `lanczos`.

    Returns:
        [C, height, width], int32 in 0 .. 255.
    """
    for axis, wanted in ((2, width), (1, height)):
        if pixels.shape[axis] != wanted:
            pixels = _resampled(pixels, axis, wanted, weigh)
    return pixels


@lru_cache(maxsize=32)
def _taps_on(device: torch.device, inputs: int, outputs: int, weigh: Weigh) -> list[torch.Tensor]:
    """Positions and weights, kept on the device: an upload waits for it."""
    return [torch.from_numpy(table).to(device) for table in taps(inputs, outputs, weigh)]


def _resampled(pixels: torch.Tensor, axis: int, outputs: int, weigh: Weigh) -> torch.Tensor:
    positions, weights = _taps_on(pixels.device, pixels.shape[axis], outputs, weigh)
    if axis == 1:
        weights = weights[:, :, None]
    total = torch.full((), 1 << (_BITS - 1), dtype=torch.int32, device=pixels.device)
    for place, weight in zip(positions, weights, strict=True):
        total = torch.addcmul(total, pixels.index_select(axis, place), weight)
    return total.bitwise_right_shift(_BITS).clamp_(0, 255)
