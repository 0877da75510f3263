"""Tiles of the UNet for pictures that do not fit: predicted apart, blended at every step.

All tiles share the sample and its noise, and where they overlap their predictions fade into each
other, so no step leaves a seam for the next one to sharpen. The outer quarter of an overlap is
context alone: what the network predicts beside a border that the picture does not have is the worst
of a tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pipelines.diffusion.tiling import tile_offsets
from pipelines.srdiff.config import SIZE_MULTIPLE


@dataclass(frozen=True, slots=True)
class Tiles:
    """Equal tiles that cover a picture, in HR pixels.

    Attributes:
        height: Of a tile.
        width: Of a tile.
        offsets: (top, left) of each.
        overlap: Asked for; the last tile of an axis may overlap more.
    """

    height: int
    width: int
    offsets: tuple[tuple[int, int], ...]
    overlap: int

    def __len__(self) -> int:
        return len(self.offsets)

    def weights(self, height: int, width: int, like: torch.Tensor) -> list[torch.Tensor]:
        """Of each tile, [tile height, tile width]: at every pixel of the picture they sum to 1.

        Args:
            height: Of the picture.
            width: Of the picture.
            like: Device and dtype.
        """
        rows = {top: _fade(top, self.height, height, self.overlap) for top, _ in self.offsets}
        columns = {left: _fade(left, self.width, width, self.overlap) for _, left in self.offsets}
        total = torch.zeros(height, width, dtype=torch.float64)
        for top, left in self.offsets:
            part = total[top : top + self.height, left : left + self.width]
            part += torch.outer(rows[top], columns[left])
        shares = [
            torch.outer(rows[top], columns[left])
            / total[top : top + self.height, left : left + self.width]
            for top, left in self.offsets
        ]
        return [share.to(like.device, like.dtype) for share in shares]


def plan_tiles(height: int, width: int, tile: int, overlap: int) -> Tiles:
    """Tiles of at most `tile` a side; one where the picture is not larger.

    Args:
        height: Of the picture, a multiple of 8 like all other lengths.
        width: Of the picture.
        tile: Largest side.
        overlap: Of neighbours, less than `tile`.
    """
    rows, columns = min(tile, height), min(tile, width)
    tops = tile_offsets(height, rows, min(overlap, rows - SIZE_MULTIPLE))
    lefts = tile_offsets(width, columns, min(overlap, columns - SIZE_MULTIPLE))
    return Tiles(rows, columns, tuple((top, left) for top in tops for left in lefts), overlap)


def largest_tile(budget_pixels: int, overlap: int) -> int:
    """Side of the largest square tile of so many pixels, a multiple of 8."""
    side = int(budget_pixels**0.5) // SIZE_MULTIPLE * SIZE_MULTIPLE
    return max(side, 2 * overlap)


def _fade(start: int, side: int, length: int, overlap: int) -> torch.Tensor:
    """Along one axis: 0 in the outer quarter of an overlap, rising to 1 over its middle half.

    Where a tile ends with the picture there is nothing to fade into.
    """
    place = torch.arange(side, dtype=torch.float64) + 0.5
    inside = torch.full_like(place, torch.inf)
    if start > 0:
        inside = place
    if start + side < length:
        inside = torch.minimum(inside, side - place)
    return (2 * inside / overlap - 0.5).clamp(0, 1)
