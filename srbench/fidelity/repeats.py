"""Does a pipeline paint the same picture again: several tries, and the one furthest off."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TRIES = 4
"""With the first picture five: one second picture alone would miss a kernel that takes another path
every third time."""


@dataclass(frozen=True, slots=True)
class Repeats:
    """What painting again brought.

    Attributes:
        distinct: Different pictures among all, the first one included; 1 is deterministic.
        worst: The picture with the largest squared error against the first, [H, W, 3]; None when
            all were equal. A mean over modes would be the picture of none of them.
    """

    distinct: int
    worst: NDArray[np.uint8] | None


def paint_again(
    paint: Callable[[], NDArray[np.uint8]], first: NDArray[np.uint8], tries: int = TRIES
) -> Repeats:
    """Call `paint` some more times and hold every picture against the first, [H, W, 3]."""
    seen = {digest(first)}
    worst, largest = None, 0
    for _ in range(tries):
        picture = paint()
        seen.add(digest(picture))
        error = _squared_error(first, picture)
        if error > largest:
            worst, largest = picture, error
    return Repeats(len(seen), worst)


def digest(picture: NDArray[np.uint8]) -> str:
    """SHA-256 of the values, rows first."""
    return hashlib.sha256(picture.tobytes()).hexdigest()


def _squared_error(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> int:
    if np.array_equal(a, b):
        return 0
    difference = a.astype(np.int32) - b
    return int(np.square(difference).sum(dtype=np.int64))
