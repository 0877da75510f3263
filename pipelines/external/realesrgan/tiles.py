"""Tiles of a picture as the published script cuts them: a core, and context that is cut off."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True, slots=True)
class Span:
    """One axis of a tile, LR pixels, half open.

    Attributes:
        start: Of the core.
        stop: Of the core.
        read_start: Of what the network sees.
        read_stop: Of what the network sees.
    """

    start: int
    stop: int
    read_start: int
    read_stop: int

    @property
    def length(self) -> int:
        """Pixels that the network sees."""
        return self.read_stop - self.read_start


def spans(length: int, tile: int, pad: int) -> list[Span]:
    """Cores of `tile` pixels one after another, the last one shorter.

    Args:
        length: Of the axis.
        tile: Of a core; the whole axis where it is not shorter.
        pad: Context on either side, where the picture has it.
    """
    starts = range(0, length, tile)
    return [
        Span(start, min(start + tile, length), max(start - pad, 0), min(start + tile + pad, length))
        for start in starts
    ]


def plan_tiles(height: int, width: int, tile: int, pad: int) -> list[tuple[Span, Span]]:
    """Rows and columns of each tile that covers a picture."""
    return list(product(spans(height, tile, pad), spans(width, tile, pad)))


def largest_tile(pixels: int, pad: int, least: int) -> int:
    """Largest core whose square with its context has at most `pixels`, but at least `least`."""
    return max(int(max(pixels, 0) ** 0.5) - 2 * pad, least)
