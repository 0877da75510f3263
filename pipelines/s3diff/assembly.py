"""The networks of the optimized pipeline, with the checkpoint's numbers, on their device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from pipelines.s3diff.degradation import DegradationEstimator
from pipelines.s3diff.options import TIMESTEP, OptimizedOptions
from pipelines.stable_diffusion.layers import Fusion
from pipelines.stable_diffusion.unet import UNet
from pipelines.stable_diffusion.vae import Vae

if TYPE_CHECKING:
    from pipelines.s3diff.weights import Checkpoint

Network = TypeVar("Network", bound=nn.Module)


def build_unet(
    checkpoint: Checkpoint, options: OptimizedOptions, device: torch.device, dtype: torch.dtype
) -> UNet:
    """The UNet in `dtype`; its last convolution, whose error is multiplied by 14.6, in float32."""
    with torch.device("meta"):
        unet = UNet(checkpoint.architecture.unet, TIMESTEP, _fusion(options))
    unet.to(dtype).conv_out.to(torch.float32)
    return _placed(unet, checkpoint.unet, options, device)


def build_vae(
    checkpoint: Checkpoint, options: OptimizedOptions, device: torch.device, dtype: torch.dtype
) -> Vae:
    """The VAE in `dtype`; what touches the latent in float32."""
    with torch.device("meta"):
        chunked = options.chunked_attention
        vae = Vae(checkpoint.architecture.vae, _fusion(options), chunked=chunked).to(dtype)
    for layer in (vae.encoder.conv_out, vae.quant_conv, vae.post_quant_conv):
        layer.to(torch.float32)
    return _placed(vae, checkpoint.vae, options, device)


def build_estimator(
    checkpoint: Checkpoint, options: OptimizedOptions, device: torch.device, dtype: torch.dtype
) -> DegradationEstimator:
    """The degradation estimator in `dtype`; the heads that give the scores in float32."""
    arch = checkpoint.architecture
    with torch.device("meta"):
        estimator = DegradationEstimator(
            arch.degradation_width, arch.degradation_wide, arch.degradation_hidden
        )
    estimator.to(dtype).fc_degree.to(torch.float32)
    return _placed(estimator, checkpoint.degradation, options, device)


def _fusion(options: OptimizedOptions) -> Fusion:
    return Fusion(norm=options.fused_norm, pointwise=options.fused_pointwise)


def _placed(
    network: Network,
    state: Mapping[str, torch.Tensor],
    options: OptimizedOptions,
    device: torch.device,
) -> Network:
    """Give a meta network storage of its own and copy the checkpoint into it."""
    network.to_empty(device=device).eval().requires_grad_(False)
    # On the meta device too, which counts what CUDA does.
    if options.channels_last and device.type != "cpu":
        network.to(memory_format=torch.channels_last)
    network.load_state_dict(state)
    return network
