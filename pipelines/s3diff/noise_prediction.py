"""Guided noise of a whole latent: the UNet over batches of tiles and both prompts."""

from __future__ import annotations

import math

import torch

from pipelines.diffusion.graphs import KEPT, Replayed
from pipelines.diffusion.tiling import LatentTiles, gaussian_weights
from pipelines.s3diff.options import OptimizedOptions
from pipelines.stable_diffusion.unet import UNet
from pipelines.stable_diffusion.unet_blocks import TextKV
from pipelines.work import note_call

Tensor = torch.Tensor


class NoisePredictor:
    """Classifier-free guidance over tiles, blended; replayed from CUDA graphs where captured.

    Args:
        unet: Its weights stay where they are from image to image.
        options: Of the pipeline.
        dtype: Of the UNet's input.
    """

    def __init__(self, unet: UNet, options: OptimizedOptions, dtype: torch.dtype) -> None:
        self.unet, self.options, self.dtype = unet, options, dtype
        self.replayed = Replayed(self._guided)
        self._prompts: Tensor
        self._text: list[TextKV] | None = None
        self._shares: dict[tuple[LatentTiles, torch.Size], Tensor] = {}

    def read_prompts(self, prompts: Tensor) -> None:
        """Take the prompts' embeddings [2, 77, width] of this image, positive first."""
        prompts = prompts.to(self.dtype)
        if not self.options.cache_text_kv:
            self._prompts = prompts
            return
        text = self.unet.text_keys_values(prompts)
        if self._text is None or not prompts.is_cuda:
            self._text = text
            return
        # Graphs read the keys and values of the first image: they are overwritten in place.
        torch._foreach_copy_([t for pair in self._text for t in pair], [t for p in text for t in p])

    def predict(self, latent: Tensor, geometry: LatentTiles, batch: int) -> Tensor:
        """Guided noise [1, C, h, w], float32.

        Args:
            latent: [1, C, h, w], float32.
            geometry: Tiles of the latent.
            batch: Tiles in one batch at most; batches are made equally large.
        """
        note_call("unet", 2 * len(geometry.offsets))
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

    def _guided(self, tiles: Tensor) -> Tensor:
        """Guidance over a batch of tiles [B, C, h, w] -> float32 of the same shape."""
        text = self._text or self.unet.text_keys_values(self._prompts)
        x = tiles.to(self.dtype)
        if self.options.batch_prompts:
            positive, negative = self.unet(x, text, share_prefix=self.options.share_prefix)
        else:
            positive, negative = (
                self.unet(x, [(k[i : i + 1], v[i : i + 1]) for k, v in text], share_prefix=False)[0]
                for i in range(2)
            )
        positive, negative = (eps.to(tiles.dtype) for eps in (positive, negative))
        return torch.as_tensor(negative + self.options.guidance * (positive - negative))


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
