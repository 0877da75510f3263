"""One-step models as calibration sees them: encode, predict, decode, each differentiable.

The networks are those of the optimized pipelines, unfused and in float32, with every GroupNorm over
the whole picture: calibration crops are single tiles.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pipelines.diffusion.one_step import predict_x0
from pipelines.passionsr.calibration.set import Rgb
from pipelines.stable_diffusion.optimized import OptimizedOneStep
from pipelines.stable_diffusion.options import VAE_FACTOR
from pipelines.stable_diffusion.steps import posterior_latent
from pipelines.stable_diffusion.vae import run_whole

Tensor = torch.Tensor

PLAIN: dict[str, Any] = {
    "fold_upsample": False,
    "fused_norm": False,
    "fused_pointwise": False,
    "fused_qkv": False,
    "chunked_attention": False,
}
"""Options of a pipeline whose layers are modules that can be replaced, and differentiable."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A picture as the networks get it.

    Attributes:
        x: [1, 3, H, W] in [-1, 1], float32: upscaled.
        scores: Degradation scores [1, 2] in (0, 1); None for a model that has none.
    """

    x: Tensor
    scores: Tensor | None = None


class OneStepModel(ABC):
    """Encoder, one noise prediction, decoder.

    Args:
        pipeline: Loaded on the CPU in float32 with the options `PLAIN`; its networks get tensors of
            their own, because those that a pipeline loads are closed to autograd.

    Attributes:
        unet: Flat UNet; its layers may be replaced.
        vae: Flat VAE; likewise.
        together: Pictures that one batch may hold.
    """

    together = 1

    def __init__(self, pipeline: OptimizedOneStep[Any, Any]) -> None:
        self.unet, self.vae = pipeline.unet, pipeline.vae
        for network in (self.unet, self.vae):
            let_autograd_see(network)
        self._scaling_factor, self._alpha_bar = pipeline.scaling_factor, pipeline.alpha_bar
        self._latent_channels = int(pipeline.architecture.vae["latent_channels"])

    @abstractmethod
    def condition(self, lr: Rgb) -> Condition:
        """Upscale a low-resolution picture uint8 [h, w, 3] as the pipeline does."""

    @abstractmethod
    def eps(self, condition: Condition, latent: Tensor) -> Tensor:
        """Predicted (guided) noise of a latent, of its shape, float32."""

    def encode(self, condition: Condition, noise: Tensor | None = None) -> Tensor:
        """Scaled latent [1, C, H/8, W/8], float32.

        Args:
            condition: Of the picture.
            noise: Standard normal of the latent's shape; None takes the mean of the posterior.
        """
        x = condition.x
        moments = self.vae.quant_conv(run_whole(self.vae.encoder, x))
        if noise is None:
            return torch.as_tensor(moments.chunk(2, dim=1)[0] * self._scaling_factor)
        return posterior_latent(moments, noise, self._scaling_factor, sample=True)[1]

    def x0(self, latent: Tensor, eps: Tensor) -> Tensor:
        """The clean latent that follows from both."""
        return predict_x0(latent, eps, self._alpha_bar)

    def decode(self, x0: Tensor) -> Tensor:
        """Picture [1, 3, H, W], about [-1, 1], not clamped."""
        z = self.vae.post_quant_conv(x0 / self._scaling_factor)
        return run_whole(self.vae.decoder, z)

    def latent_shape(self, condition: Condition) -> tuple[int, int, int, int]:
        """Of the picture's latent."""
        count, _, height, width = condition.x.shape
        return count, self._latent_channels, height // VAE_FACTOR, width // VAE_FACTOR


def let_autograd_see(network: nn.Module) -> None:
    """Give a network tensors of its own that were not made in inference mode."""
    for module in network.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(parameter.clone(), requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            setattr(module, name, buffer.clone())
