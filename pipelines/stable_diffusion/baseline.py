"""What the published one-step programs do alike, step by step, with diffusers' own networks."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from pipelines.contract import Observer
from pipelines.diffusion import color_fix
from pipelines.diffusion.tiling import gaussian_weights
from pipelines.stable_diffusion.geometry import decoder_tiles, encoder_tiles, unet_tiles
from pipelines.stable_diffusion.options import ColorFix
from pipelines.stable_diffusion.pipeline import CheckpointT, OneStepPipeline, OptionsT
from pipelines.stable_diffusion.steps import posterior_latent
from pipelines.stable_diffusion.tiled_vae import decoder_steps, encoder_steps, run_tiled
from pipelines.work import note_call, replayed

Predict = Callable[[torch.Tensor], torch.Tensor]


class BaselineOneStep(OneStepPipeline[OptionsT, CheckpointT]):
    """UNet tile by tile, tiled VAE with round trips to the host, colours fixed on the CPU."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL

    def _housekeeping(self) -> AbstractContextManager[None]:
        """Around every tiled run of the VAE."""
        return nullcontext()

    def _encode(self, x: torch.Tensor, noise: torch.Tensor, observe: Observer) -> torch.Tensor:
        """Image in [-1, 1] -> scaled latent [1, C, h, w]."""
        tiles = encoder_tiles(x, self.options)
        note_call("vae_encoder", len(tiles))
        if len(tiles) == 1:
            encoded = self.vae.encoder(x)
        else:
            with self._housekeeping():
                encoded = run_tiled(encoder_steps(self.vae.encoder), x, tiles, 2 * noise.shape[1])
        mean, latent = posterior_latent(
            self.vae.quant_conv(encoded),
            noise,
            self.vae.config.scaling_factor,
            sample=self.options.posterior == "sample",
        )
        observe("latent_mean", mean)
        observe("latent", latent)
        return latent

    def _predict_noise(self, latent: torch.Tensor, predict: Predict) -> torch.Tensor:
        """Noise of the latent, blended where it is tiled.

        Args:
            latent: [1, C, h, w].
            predict: Noise of one tile.
        """
        tiles = unet_tiles(latent, self.options)
        if len(tiles.offsets) == 1:
            return predict(latent)
        side = tiles.tile_height
        weights = gaussian_weights(side).to(latent.device).expand(1, latent.shape[1], -1, -1)
        total = torch.zeros(latent.shape, device=latent.device)
        norm = torch.zeros(latent.shape, device=latent.device)
        for top, left in tiles.offsets:
            window = (..., slice(top, top + side), slice(left, left + side))
            predicted = replayed("tile", partial(predict, latent[window]))
            total[window] += predicted * weights
            norm[window] += weights
        return total / norm

    def _decode(self, x0: torch.Tensor) -> torch.Tensor:
        """Scaled latent -> image around [-1, 1]."""
        latent = x0 / self.vae.config.scaling_factor
        z = self.vae.post_quant_conv(latent)
        tiles = decoder_tiles(z, self.options)
        note_call("vae_decoder", len(tiles))
        if len(tiles) == 1:
            decoded: torch.Tensor = self.vae.decoder(z)
            return decoded
        with self._housekeeping():
            return run_tiled(
                decoder_steps(self.vae.decoder), z, tiles, int(self.vae.config.out_channels)
            )

    def _fix_colors(self, output: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """On the CPU, between images [3, H, W] truncated to 8 bits."""
        if self.options.color_fix == ColorFix.NONE:
            return output
        fix = {ColorFix.WAVELET: color_fix.wavelet, ColorFix.ADAIN: color_fix.adain}
        eight_bit = [
            color_fix.truncate_to_uint8(i if i.is_meta else i.cpu()).float().div(255)[None]
            for i in (output, source)
        ]
        return fix[self.options.color_fix](*eight_bit)[0]
