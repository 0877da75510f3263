"""Where two pictures differ most: one ruined tile hardly moves the global PSNR of a large one."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BLOCK = 64
STRIDE = 32
MSE_FLOOR = 1e-8
"""Added to the mean squared error as pyiqa does: equal blocks read 80 dB."""


@dataclass(frozen=True, slots=True)
class WorstBlock:
    """The block with the lowest PSNR."""

    top: int
    left: int
    psnr_db: float


def worst_block(reference: NDArray[np.uint8], candidate: NDArray[np.uint8]) -> WorstBlock:
    """Lowest PSNR over 64x64 blocks, 32 apart and at every edge.

    Args:
        reference: [H, W, 3] uint8.
        candidate: Of the same shape.
    """
    difference = reference.astype(np.int64) - candidate.astype(np.int64)
    squared = np.square(difference).sum(axis=2)
    sums = np.zeros((squared.shape[0] + 1, squared.shape[1] + 1), np.int64)
    sums[1:, 1:] = squared.cumsum(axis=0).cumsum(axis=1)
    tops, height = _offsets(squared.shape[0])
    lefts, width = _offsets(squared.shape[1])
    grid = (
        sums[np.ix_(tops + height, lefts + width)]
        - sums[np.ix_(tops, lefts + width)]
        - sums[np.ix_(tops + height, lefts)]
        + sums[np.ix_(tops, lefts)]
    )
    row, column = np.unravel_index(int(grid.argmax()), grid.shape)
    mse = float(grid[row, column]) / (height * width * 3 * 255**2)
    return WorstBlock(int(tops[row]), int(lefts[column]), -10 * math.log10(mse + MSE_FLOOR))


def _offsets(length: int) -> tuple[NDArray[np.int64], int]:
    size = min(BLOCK, length)
    regular = np.arange(0, length - size + 1, STRIDE)
    return np.unique(np.append(regular, length - size)), size
