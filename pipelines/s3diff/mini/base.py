"""Stage `base`: VAE and UNet learn to restore in one step, for the two prompts.

What SD-Turbo is to S3Diff: a text-conditional one-step network that knows nothing of degradation
scores. The published one was distilled from Stable Diffusion; a network of this size learns
restoration itself instead.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from numpy.typing import NDArray
from torch import nn

from pipelines.degradations import Settings as Degradation
from pipelines.degradations import degrade
from pipelines.s3diff.mini.autoencoder import (
    decode_one_step,
    grid,
    latent_noise,
    psnr,
    sample_latent,
    to_network,
    to_pixels,
)
from pipelines.s3diff.mini.crops import Crops
from pipelines.s3diff.mini.stage import Objective, Settings
from pipelines.s3diff.options import TIMESTEP
from pipelines.training.batches import reseed
from pipelines.training.loop import Look

POSITIVE, NEGATIVE = 0, 1
NEGATIVE_SHARE = 0.05
"""Of the crops: with the negative prompt, and the network's own input as the target (S3Diff,
online negative samples)."""
LPIPS_SIDE = 48
"""LPIPS sees windows of this side: it costs more than all networks of this model together."""


def build_unet(config: dict[str, object], seed: int) -> UNet2DConditionModel:
    """The UNet with PyTorch's seeded initial weights; it begins by predicting eps = 0."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel.from_config(config)
    nn.init.zeros_(unet.conv_out.weight)
    nn.init.zeros_(unet.conv_out.bias)
    return unet


class BaseObjective(Objective):
    """L1 and LPIPS of restored crops.

    Args:
        vae: Of stage `autoencoder`; all of it goes on learning.
        unet: With initial weights.
        prompts: Embeddings of the positive and the negative prompt, [2, 77, width].
        lpips: `pipelines.perceptual.open_lpips("vgg", ...)`.
        crops: Of photographs.
        settings: Of the stage.
        held_out: uint8 pictures [H, W, 3] with sides that are multiples of 64.
    """

    columns = ("l1", "lpips")

    def __init__(
        self,
        vae: AutoencoderKL,
        unet: UNet2DConditionModel,
        prompts: torch.Tensor,
        lpips: nn.Module,
        crops: Crops,
        settings: Settings,
        held_out: Sequence[NDArray[np.uint8]],
    ) -> None:
        super().__init__(crops, settings, held_out)
        self.vae, self.unet = vae, unet
        self.register_buffer("prompts", prompts, persistent=False)
        self.prompts: torch.Tensor
        self.lpips = lpips
        self._degradation = Degradation()

    def restore(self, x: torch.Tensor, prompt: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Pictures of upsampled pictures.

        Args:
            x: [B, 3, H, W] in [-1, 1].
            prompt: [B], `POSITIVE` or `NEGATIVE`.
            noise: Of the posterior, [B, C, H / 8, W / 8].
        """
        latent, _ = sample_latent(self.vae, x, noise)
        timestep = torch.tensor([TIMESTEP], device=x.device)
        eps = self.unet(latent, timestep, self.prompts[prompt]).sample
        return decode_one_step(self.vae, latent, eps)

    def losses(self, step: int) -> dict[str, torch.Tensor]:
        """See `Objective`."""
        settings = self.settings
        device = self.prompts.device
        generator = reseed(torch.Generator(), settings.seed, step)
        first = step * settings.batch
        hr = self._crops.batch(first, settings.batch).to(device)
        x = upsampled(degrade(hr, self._degradation, range(first, first + settings.batch)))
        x = x.contiguous(memory_format=torch.channels_last)
        negative = torch.rand(settings.batch, generator=generator) < NEGATIVE_SHARE
        noise = latent_noise(self.vae, x, generator).to(device)
        target = torch.where(negative.to(device).view(-1, 1, 1, 1), x, hr * 2 - 1)
        picture = self.restore(x, negative.long().to(device), noise)
        top, left = torch.randint(settings.crop - LPIPS_SIDE + 1, (2,), generator=generator)
        window = (
            slice(settings.batch // 2),
            slice(None),
            slice(int(top), int(top) + LPIPS_SIDE),
            slice(int(left), int(left) + LPIPS_SIDE),
        )
        distance = self.lpips(picture[window], target[window]).mean()
        return {"l1": F.l1_loss(picture, target), "lpips": settings.lpips * distance}

    def look(self) -> Look:
        """PSNR and LPIPS of held-out pictures that were degraded."""
        device = self.prompts.device
        rows, gains, distances = [], [], []
        for number, pixels in enumerate(self._held_out):
            hr = to_network(pixels).to(device)
            x = upsampled(degrade(hr / 2 + 0.5, self._degradation, [number]))
            prompt = torch.tensor([POSITIVE], device=device)
            picture = self.restore(x, prompt, torch.zeros_like(x[:, :1, ::8, ::8])).clamp(-1, 1)
            rows.append([to_pixels(x), to_pixels(picture), pixels])
            gains.append(psnr(rows[-1][1], pixels))
            distances.append(float(self.lpips(picture, hr)))
        values = {"psnr": float(np.mean(gains)), "lpips_vgg": float(np.mean(distances))}
        return Look(values, grid(rows))


def upsampled(lr: torch.Tensor) -> torch.Tensor:
    """[B, 3, h, w] in [0, 1] -> [B, 3, 4 h, 4 w] in [-1, 1], as the pipelines upsample."""
    return F.interpolate(lr, scale_factor=4, mode="bilinear") * 2 - 1
