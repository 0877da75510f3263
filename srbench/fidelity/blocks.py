"""Where two pictures differ most: one ruined tile hardly moves the global PSNR of a large one.

A pipeline has tile borders of its own in every network, and none tells them. So nothing here knows
of tiles: every 64x64 block at a stride of 32 is looked at, in which any seam of up to 32 pixels
lies whole, and every band of 16x64 and 64x16 pixels, in which a thin seam is not diluted.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 64
STRIDE = 32
BAND = 16
BAND_STRIDE = 8
MSE_FLOOR = 1e-8
"""Added to the mean squared error as pyiqa does: equal blocks read 80 dB."""

Picture = NDArray[np.uint8]
Counts = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Side:
    """Where windows lie along one side of a picture.

    Attributes:
        starts: First pixels, one at each end of the side at least.
        size: Pixels of a window, fewer than asked for where the side is shorter.
    """

    starts: Counts
    size: int


@dataclass(frozen=True, slots=True)
class WorstBlock:
    """The window with the lowest PSNR; `top` and `left` in pixels."""

    top: int
    left: int
    psnr_db: float


class ErrorMap:
    """Squared errors of a picture, summed up once so that any window costs four look-ups."""

    def __init__(self, reference: Picture, candidate: Picture) -> None:
        """Hold `candidate`, [H, W, 3], against `reference` of the same shape."""
        self._shape = reference.shape[:2]
        difference = reference.astype(np.int32) - candidate
        self._sums = _integral(np.square(difference).sum(axis=2))

    def worst_block(self) -> WorstBlock:
        """Lowest PSNR over 64x64 blocks, 32 apart and at every edge."""
        rows, columns = (_windows(length, BLOCK, STRIDE) for length in self._shape)
        return self._worst(rows, columns)

    def worst_band(self) -> WorstBlock:
        """Lowest PSNR over bands of 16x64 and 64x16, 8 apart across and 32 along."""
        height, width = self._shape
        lying = _windows(height, BAND, BAND_STRIDE), _windows(width, BLOCK, STRIDE)
        standing = _windows(height, BLOCK, STRIDE), _windows(width, BAND, BAND_STRIDE)
        return min(self._worst(*lying), self._worst(*standing), key=lambda band: band.psnr_db)

    def _worst(self, rows: Side, columns: Side) -> WorstBlock:
        grid = _window_sums(self._sums, rows, columns)
        row, column = np.unravel_index(int(grid.argmax()), grid.shape)
        mse = float(grid[row, column]) / (rows.size * columns.size * 3 * 255**2)
        return WorstBlock(
            int(rows.starts[row]), int(columns.starts[column]), -10 * math.log10(mse + MSE_FLOOR)
        )


def flat_blocks(reference: Picture, candidate: Picture) -> int:
    """Blocks of one colour in the candidate where the reference has more: tiles never painted.

    Blocks are the 64x64 ones of `worst_block`; what is flat in both, as a clear sky is, counts not.
    """
    rows, columns = (_windows(length, BLOCK, STRIDE) for length in reference.shape[:2])
    lost = _is_flat(candidate, rows, columns) & ~_is_flat(reference, rows, columns)
    return int(lost.sum())


def _is_flat(picture: Picture, rows: Side, columns: Side) -> NDArray[np.bool_]:
    """[len(rows), len(columns)]: no pixel differs from its neighbour inside the window."""
    down = (picture[1:] != picture[:-1]).any(axis=2)
    right = (picture[:, 1:] != picture[:, :-1]).any(axis=2)
    steps = _window_sums(_integral(down), Side(rows.starts, rows.size - 1), columns)
    steps += _window_sums(_integral(right), rows, Side(columns.starts, columns.size - 1))
    return np.asarray(steps == 0)


def _windows(length: int, size: int, stride: int) -> Side:
    size = min(size, length)
    regular = np.arange(0, length - size + 1, stride)
    return Side(np.unique(np.append(regular, length - size)), size)


def _integral(values: NDArray[np.generic]) -> Counts:
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1), np.int64)
    values.cumsum(axis=0, dtype=np.int64).cumsum(axis=1, out=sums[1:, 1:])
    return sums


def _window_sums(sums: Counts, rows: Side, columns: Side) -> Counts:
    tops, bottoms = rows.starts, rows.starts + rows.size
    lefts, rights = columns.starts, columns.starts + columns.size
    return np.asarray(
        sums[np.ix_(bottoms, rights)]
        - sums[np.ix_(tops, rights)]
        - sums[np.ix_(bottoms, lefts)]
        + sums[np.ix_(tops, lefts)]
    )
