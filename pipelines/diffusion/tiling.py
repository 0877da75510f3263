"""Tile geometry of the published programs: pure functions of sizes, no tensors but the weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch


def tile_offsets(length: int, tile: int, overlap: int) -> list[int]:
    """Offsets of tiles of side `tile` that cover `length`; the last one ends at the border.

    The smallest number of tiles that covers the axis at stride `tile - overlap`
    (S3Diff `s3diff_tile.py`).
    """
    stride = tile - overlap
    count = max(1, math.ceil((length - tile) / stride) + 1) if length > tile else 1
    return [min(i * stride, length - tile) for i in range(count)]


@dataclass(frozen=True, slots=True)
class LatentTiles:
    """UNet tiles of a latent; `offsets` are (top, left) in the published order, x outer."""

    tile_height: int
    tile_width: int
    offsets: tuple[tuple[int, int], ...]


def latent_tiles(height: int, width: int, tile: int, overlap: int) -> LatentTiles:
    """Tiles of the UNet. A latent of at most `tile` squared area is one tile of its own shape.

    The published test is of the area, not of the sides. Where the shorter side is not longer than
    the overlap the published loop never ends; there half the side is the overlap.
    """
    if height * width <= tile * tile:
        return LatentTiles(height, width, ((0, 0),))
    side = min(tile, height, width)
    overlap = overlap if side > overlap else side // 2
    tops = tile_offsets(height, side, overlap)
    lefts = tile_offsets(width, side, overlap)
    return LatentTiles(side, side, tuple((top, left) for left in lefts for top in tops))


@lru_cache(maxsize=8)
def gaussian_weights(side: int) -> torch.Tensor:
    """Blend weights [side, side], float64.

    The published centre is (side-1)/2 along x but side/2 along y.
    """
    variance = 0.01
    steps = np.arange(side, dtype=np.float64)

    def profile(centre: float) -> np.ndarray:
        density = np.exp(-((steps - centre) ** 2) / (side * side) / (2 * variance))
        return np.asarray(density / np.sqrt(2 * np.pi * variance))

    return torch.from_numpy(np.outer(profile(side / 2), profile((side - 1) / 2)))


@dataclass(frozen=True, slots=True)
class Box:
    """Half-open rectangle: rows top..bottom, columns left..right."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        """Rows."""
        return self.bottom - self.top

    @property
    def width(self) -> int:
        """Columns."""
        return self.right - self.left


@dataclass(frozen=True, slots=True)
class VaeTile:
    """A tile of the VAE: what it reads (`source`), where its result goes (`target`).

    `crop` is the part of the network's output that is kept.
    """

    source: Box
    target: Box
    crop: Box


def _even_tile(size: int, limit: int) -> int:
    """The published "best tile size": a round divisor if one fits under the limit."""
    for divisor in (32, 16, 8, 4, 2):
        remainder = size % divisor
        if remainder == 0:
            return size
        rounded = size - remainder + divisor
        if rounded <= limit:
            return rounded
    return size


def vae_tiles(
    height: int, width: int, tile: int, pad: int, *, numerator: int, denominator: int
) -> tuple[VaeTile, ...]:
    """Tiles of the tiled VAE; one whole-image tile when `max(height, width) <= tile + 2 pad`.

    Args:
        height: Of the network's input.
        width: Of the network's input.
        tile: Largest core side.
        pad: Context around the core.
        numerator: Output size over input size is numerator/denominator (1/8 encoder, 8/1 decoder).
        denominator: See `numerator`.
    """

    def scaled(value: int) -> int:
        return value * numerator // denominator

    whole = Box(0, height, 0, width)
    whole_out = Box(0, scaled(height), 0, scaled(width))
    if max(height, width) <= tile + 2 * pad:
        return (VaeTile(whole, whole_out, whole_out),)

    def spans(length: int) -> list[tuple[int, int, int, int]]:
        count = max(1, math.ceil((length - 2 * pad) / tile))
        side = _even_tile(math.ceil((length - 2 * pad) / count), tile)
        found = []
        for i in range(count):
            start, stop = pad + i * side, min(pad + (i + 1) * side, length)
            out_start = start if start > pad else 0
            out_stop = stop if stop < length - pad else length
            found.append((max(0, start - pad), min(length, stop + pad), out_start, out_stop))
        return found

    tiles = []
    for top, bottom, out_top, out_bottom in spans(height):
        for left, right, out_left, out_right in spans(width):
            target = Box(*(scaled(v) for v in (out_top, out_bottom, out_left, out_right)))
            rows, columns = scaled(top), scaled(left)
            crop = Box(
                target.top - rows,
                target.bottom - rows,
                target.left - columns,
                target.right - columns,
            )
            tiles.append(VaeTile(Box(top, bottom, left, right), target, crop))
    return tuple(tiles)
