"""Noise of a whole latent: the UNet over batches of tiles, with one prompt or two."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from pipelines.diffusion.graphs import KEPT, Replayed
from pipelines.diffusion.tiling import LatentTiles, gaussian_weights
from pipelines.stable_diffusion.unet import UNet
from pipelines.stable_diffusion.unet_blocks import TextKV
from pipelines.work import note_call

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompting:
    """What becomes of the prompts.

    Attributes:
        guidance: Scale of classifier-free guidance between two prompts; None for one prompt.
        cache_text_kv: Keep the prompts' keys and values.
        batch_prompts: Both prompts in one batch.
        share_prefix: What precedes the first cross-attention once for both, in one batch.
    """

    guidance: float | None
    cache_text_kv: bool = True
    batch_prompts: bool = True
    share_prefix: bool = True

    @property
    def count(self) -> int:
        """UNet samples of a tile."""
        return 1 if self.guidance is None else 2


class NoisePredictor:
    """The UNet over tiles, guided and blended; replayed from CUDA graphs where captured.

    Args:
        unet: Its weights stay where they are from image to image.
        prompting: What becomes of the prompts.
        dtype: Of the UNet's input.
    """

    def __init__(self, unet: UNet, prompting: Prompting, dtype: torch.dtype) -> None:
        self.unet, self.prompting, self.dtype = unet, prompting, dtype
        self.replayed = Replayed(self._predicted)
        self._prompts: Tensor
        self._text: list[TextKV] | None = None
        self._shares: dict[tuple[LatentTiles, torch.Size], Tensor] = {}

    def read_prompts(self, prompts: Tensor) -> None:
        """Take the prompts' embeddings [prompts, 77, width], of two the positive first."""
        prompts = prompts.to(self.dtype)
        if not self.prompting.cache_text_kv:
            self._prompts = prompts
            return
        text = self.unet.text_keys_values(prompts)
        if self._text is None or not prompts.is_cuda:
            self._text = text
            return
        # Graphs read the keys and values of the first image: they are overwritten in place.
        torch._foreach_copy_([t for pair in self._text for t in pair], [t for p in text for t in p])

    def predict(self, latent: Tensor, geometry: LatentTiles, batch: int) -> Tensor:
        """Noise [1, C, h, w], float32.

        Args:
            latent: [1, C, h, w], float32.
            geometry: Tiles of the latent.
            batch: Tiles in one batch at most; batches are made equally large.
        """
        note_call("unet", self.prompting.count * len(geometry.offsets))
        windows = _windows(geometry)
        if len(windows) == 1:
            return self.replayed(latent).clone()
        shares = self.shares(geometry, latent)
        eps = torch.zeros_like(latent)
        for start, stop in batches(len(windows), batch):
            tiles = torch.cat([latent[window] for window in windows[start:stop]])
            weighted = self.replayed(tiles) * shares[start:stop, None]
            for window, part in zip(windows[start:stop], weighted, strict=True):
                eps[window] += part
        return eps

    def capture(self, latent: Tensor, geometry: LatentTiles, batch: int) -> str | None:
        """Capture what `predict` will call for such a latent; why not, where that fails."""
        for tiles in _examples(latent, geometry, batch):
            if problem := self.replayed.capture(tiles):
                return problem
        return None

    def is_captured(self, latent: Tensor, geometry: LatentTiles, batch: int) -> bool:
        """Whether `predict` would only replay."""
        return all(self.replayed.has(tiles) for tiles in _examples(latent, geometry, batch))

    def shares(self, geometry: LatentTiles, latent: Tensor) -> Tensor:
        """Blend weights of a geometry, kept on the device from image to image."""
        key = (geometry, latent.shape)
        if key not in self._shares:
            while len(self._shares) >= KEPT:
                del self._shares[next(iter(self._shares))]
            shares = blend_shares(geometry, *latent.shape[-2:])
            self._shares[key] = shares.to(latent.device, latent.dtype)
        return self._shares[key]

    def _predicted(self, tiles: Tensor) -> Tensor:
        """Noise of a batch of tiles [B, C, h, w], float32 of the same shape."""
        text = self._text or self.unet.text_keys_values(self._prompts)
        x = tiles.to(self.dtype)
        if self.prompting.guidance is None:
            return torch.as_tensor(self.unet(x, text, share_prefix=False)[0].to(tiles.dtype))
        positive, negative = self._both(x, text)
        positive, negative = (eps.to(tiles.dtype) for eps in (positive, negative))
        return torch.as_tensor(negative + self.prompting.guidance * (positive - negative))

    def _both(self, x: Tensor, text: list[TextKV]) -> tuple[Tensor, Tensor]:
        """Noise of both prompts, each [B, C, h, w]."""
        if self.prompting.batch_prompts:
            positive, negative = self.unet(x, text, share_prefix=self.prompting.share_prefix)
        else:
            positive, negative = (
                self.unet(x, [(k[i : i + 1], v[i : i + 1]) for k, v in text], share_prefix=False)[0]
                for i in range(2)
            )
        return positive, negative


def batches(count: int, limit: int) -> list[tuple[int, int]]:
    """Start and stop of batches of at most `limit` that are as equal as can be, larger ones first.

    Equal batches are few shapes to capture, and none leaves the device half empty.
    """
    number = math.ceil(count / limit)
    small, larger = divmod(count, number)
    stops = [small * (i + 1) + min(i + 1, larger) for i in range(number)]
    return list(zip([0, *stops[:-1]], stops, strict=True))


def _examples(latent: Tensor, geometry: LatentTiles, batch: int) -> list[Tensor]:
    """One batch of tiles of each size that `predict` makes."""
    sizes = {stop - start for start, stop in batches(len(geometry.offsets), batch)}
    tile = latent[:, :, : geometry.tile_height, : geometry.tile_width]
    return [tile.repeat(size, 1, 1, 1) for size in sorted(sizes)]


def _windows(geometry: LatentTiles) -> list[tuple[slice, slice, slice, slice]]:
    height, width = geometry.tile_height, geometry.tile_width
    every = slice(None)
    return [
        (every, every, slice(top, top + height), slice(left, left + width))
        for top, left in geometry.offsets
    ]


def blend_shares(geometry: LatentTiles, height: int, width: int) -> Tensor:
    """Weights of each tile divided by their sum over tiles, [tiles, side, side], float64.

    Divided in float64 once: in corners the raw weights are 3e-10.
    """
    side = geometry.tile_height
    weights = gaussian_weights(side)
    total = torch.zeros(height, width, dtype=torch.float64)
    for top, left in geometry.offsets:
        total[top : top + side, left : left + side] += weights
    return torch.stack(
        [weights / total[top : top + side, left : left + side] for top, left in geometry.offsets]
    )
