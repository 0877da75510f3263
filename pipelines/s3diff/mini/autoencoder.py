"""Stage `autoencoder`: the small VAE learns to keep photographs in a latent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from numpy.typing import NDArray

from pipelines.diffusion.one_step import alpha_bar, predict_x0
from pipelines.s3diff.mini.crops import Crops
from pipelines.s3diff.mini.stage import Objective, Settings
from pipelines.s3diff.options import TIMESTEP
from pipelines.training.batches import reseed
from pipelines.training.loop import Look

KL_WEIGHT = 1e-7
LOG_VARIANCE = -10.0
"""Where the posterior begins: nearly without noise, which a latent of small numbers needs."""
_SOFT_SHARE = 0.5
"""Of the crops: blurred ones, since the encoder will see upsampled pictures."""


def build_vae(config: dict[str, object], seed: int) -> AutoencoderKL:
    """The VAE with PyTorch's seeded initial weights, but for the variance of its posterior."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        vae = AutoencoderKL.from_config(config)
    moments = vae.quant_conv
    with torch.no_grad():
        half = moments.out_channels // 2
        moments.weight[half:].zero_()
        moments.bias[half:] = LOG_VARIANCE
    return vae


def sample_latent(
    vae: AutoencoderKL, x: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scaled posterior sample and KL divergence, mean over elements.

    Args:
        vae: The network.
        x: [B, 3, H, W] in [-1, 1].
        noise: [B, C, H / 8, W / 8], standard normal.
    """
    posterior = vae.encode(x).latent_dist
    latent = (posterior.mean + posterior.std * noise) * vae.config.scaling_factor
    return latent, posterior.kl().mean() / latent[0].numel()


def decode_one_step(vae: AutoencoderKL, latent: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
    """Picture of the one-step formula, [B, 3, H, W] around [-1, 1]."""
    x0 = predict_x0(latent, eps, alpha_bar(TIMESTEP))
    picture: torch.Tensor = vae.decode(x0 / vae.config.scaling_factor).sample
    return picture


class AutoencoderObjective(Objective):
    """L1 of what comes back when the UNet adds nothing.

    With eps = 0 the one-step formula multiplies the latent by 14.6. Trained through it, the VAE's
    latents have the scale at which a UNet that predicts 0 changes nothing: where `base` begins.

    Args:
        vae: With initial weights.
        crops: Of photographs.
        settings: Of the stage.
        held_out: uint8 pictures [H, W, 3] with sides that are multiples of 64.
    """

    columns = ("l1", "kl")

    def __init__(
        self,
        vae: AutoencoderKL,
        crops: Crops,
        settings: Settings,
        held_out: Sequence[NDArray[np.uint8]],
    ) -> None:
        super().__init__(crops, settings, held_out)
        self.vae = vae

    def losses(self, step: int) -> dict[str, torch.Tensor]:
        """See `Objective`."""
        device = next(self.parameters()).device
        generator = reseed(torch.Generator(), self.settings.seed, step)
        x = self._crops.batch(step * self.settings.batch, self.settings.batch) * 2 - 1
        x = _partly_soft(x, generator)
        noise = latent_noise(self.vae, x, generator).to(device)
        x = x.to(device, memory_format=torch.channels_last)
        latent, kl = sample_latent(self.vae, x, noise)
        picture = decode_one_step(self.vae, latent, torch.zeros_like(latent))
        return {"l1": F.l1_loss(picture, x), "kl": KL_WEIGHT * kl}

    def look(self) -> Look:
        """PSNR of the held-out pictures, unharmed."""
        device = next(self.parameters()).device
        rows, gains = [], []
        for pixels in self._held_out:
            x = to_network(pixels).to(device)
            latent, _ = sample_latent(self.vae, x, torch.zeros_like(x[:, :1, ::8, ::8]))
            picture = decode_one_step(self.vae, latent, torch.zeros_like(latent))
            rows.append([pixels, to_pixels(picture)])
            gains.append(psnr(rows[-1][1], pixels))
        return Look({"psnr": float(np.mean(gains))}, grid(rows))


def latent_noise(vae: AutoencoderKL, x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Standard normal noise of the latent of `x`, on the CPU."""
    batch, _, height, width = x.shape
    factor = 2 ** (len(vae.config.block_out_channels) - 1)
    shape = (batch, vae.config.latent_channels, height // factor, width // factor)
    return torch.randn(shape, generator=generator)


def _partly_soft(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Replace a share of the crops by themselves reduced by 2 or 4 and enlarged again."""
    soft = []
    for crop in x.split(1):
        factor = 1
        if torch.rand((), generator=generator) < _SOFT_SHARE:
            factor = 2 << int(torch.randint(2, (), generator=generator))
        size = crop.shape[-2:]
        small = F.interpolate(crop, scale_factor=1 / factor, mode="bicubic", antialias=True)
        soft.append(F.interpolate(small, size=size, mode="bicubic").clamp(-1, 1))
    return torch.cat(soft)


def to_network(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 [H, W, 3] -> [1, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(2, 0, 1)[None] / 127.5 - 1


def to_pixels(picture: torch.Tensor) -> NDArray[np.uint8]:
    """[1, 3, H, W] around [-1, 1] -> uint8 [H, W, 3], rounded."""
    levels = (picture[0].clamp(-1, 1) + 1) * 127.5
    pixels: NDArray[np.uint8] = levels.round().byte().permute(1, 2, 0).cpu().numpy()
    return pixels


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    """RGB, dB."""
    return float(-10 * np.log10(np.square(a.astype(float) - b).mean() / 255**2 + 1e-8))


def grid(rows: Sequence[Sequence[NDArray[np.uint8]]]) -> NDArray[np.uint8]:
    """Rows of equally large pictures."""
    return np.concatenate([np.concatenate(row, axis=1) for row in rows])
