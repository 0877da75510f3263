"""The feature maps of all tiles of the VAE between two layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Self

import torch

from pipelines.work import note_transfer

Tensor = torch.Tensor


class Tiles:
    """One map [1, C, h, w] a tile, with the statistics that a GroupNorm over all of them merges.

    Statistics are taken when a map is added: it is still in the cache then, and where memory is
    short it is parked in pinned host memory right after.

    Args:
        count: How many tiles there will be. A single one needs no statistics of its own.
        measure: Map, deferred bias or None -> its statistics.
        park: Keep the maps in host memory.
    """

    def __init__(
        self, count: int, measure: Callable[[Tensor, Tensor | None], Tensor], *, park: bool
    ) -> None:
        self.count, self.measure, self.park = count, measure, park
        self.statistics: list[Tensor] = []
        self.areas: list[int] = []
        self._maps: list[Tensor] = []
        self._device: torch.device | None = None

    def none(self) -> Self:
        """No maps yet, of as many tiles kept the same way."""
        return type(self)(self.count, self.measure, park=self.park)

    def hold(self, tile: Tensor) -> None:
        """Take a map that no norm reads: the network's input or output, or a residual."""
        self._device = tile.device
        self._maps.append(_parked(tile) if self.park else tile)

    def add(self, tile: Tensor, shift: Tensor | None = None) -> None:
        """Take a map; a deferred bias `shift` counts in its statistics."""
        if self.count > 1:
            self.statistics.append(self.measure(tile, shift))
            self.areas.append(tile.shape[-2] * tile.shape[-1])
        self.hold(tile)

    def drain(self) -> Iterator[Tensor]:
        """Each map on the device in turn, forgotten here once it is handed out."""
        while self._maps:
            tile = self._maps.pop(0)
            if tile.device != self._device:
                note_transfer(tile)
                tile = tile.to(self._device, non_blocking=True)
            yield tile


def _parked(tile: Tensor) -> Tensor:
    """A copy in host memory, pinned, so that the device does not wait for it."""
    note_transfer(tile)
    if tile.device.type != "cuda":
        return tile
    host = torch.empty_like(tile, device="cpu", pin_memory=True)
    return host.copy_(tile, non_blocking=True)
