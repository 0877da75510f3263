"""The tiles of one image under given options."""

from __future__ import annotations

import torch

from pipelines.diffusion.tiling import LatentTiles, VaeTile, latent_tiles, vae_tiles
from pipelines.stable_diffusion.options import (
    VAE_DECODER_PAD,
    VAE_ENCODER_PAD,
    VAE_FACTOR,
    OneStepOptions,
)


def encoder_tiles(x: torch.Tensor, options: OneStepOptions) -> tuple[VaeTile, ...]:
    """Tiles of the VAE encoder over an image [1, 3, H, W]."""
    height, width = x.shape[-2:]
    tile, pad = options.vae_encoder_tile, VAE_ENCODER_PAD
    return vae_tiles(height, width, tile, pad, numerator=1, denominator=VAE_FACTOR)


def unet_tiles(latent: torch.Tensor, options: OneStepOptions) -> LatentTiles:
    """Tiles of the UNet over a latent [1, C, h, w]."""
    height, width = latent.shape[-2:]
    return latent_tiles(height, width, options.latent_tile, options.latent_overlap)


def decoder_tiles(z: torch.Tensor, options: OneStepOptions) -> tuple[VaeTile, ...]:
    """Tiles of the VAE decoder over a latent [1, C, h, w]."""
    height, width = z.shape[-2:]
    tile, pad = options.vae_decoder_tile, VAE_DECODER_PAD
    return vae_tiles(height, width, tile, pad, numerator=VAE_FACTOR, denominator=1)
