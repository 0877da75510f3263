"""The flat networks with given numbers, on their device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn

from pipelines.stable_diffusion.layers import Fusion, Upsample
from pipelines.stable_diffusion.options import TIMESTEP, Acceleration
from pipelines.stable_diffusion.unet import UNet
from pipelines.stable_diffusion.vae import Vae

Network = TypeVar("Network", bound=nn.Module)
State = Mapping[str, torch.Tensor]


def build_unet(
    config: Mapping[str, Any],
    state: State,
    options: Acceleration,
    device: torch.device,
    dtype: torch.dtype,
) -> UNet:
    """The UNet in `dtype`; its last convolution, whose error is multiplied by 14.6, in float32."""
    with torch.device("meta"):
        unet = UNet(config, TIMESTEP, _fusion(options))
    unet.to(dtype).conv_out.to(torch.float32)
    return placed(unet, state, options, device)


def build_vae(
    config: Mapping[str, Any],
    state: State,
    options: Acceleration,
    device: torch.device,
    dtype: torch.dtype,
) -> Vae:
    """The VAE in `dtype`; what touches the latent in float32."""
    with torch.device("meta"):
        vae = Vae(config, _fusion(options), chunked=options.chunked_attention).to(dtype)
    for layer in (vae.encoder.conv_out, vae.quant_conv, vae.post_quant_conv):
        layer.to(torch.float32)
    return placed(vae, state, options, device)


def placed(network: Network, state: State, options: Acceleration, device: torch.device) -> Network:
    """Give a meta network storage of its own and copy `state` into it."""
    network.to_empty(device=device).eval().requires_grad_(False)
    # On the meta device too, which counts what CUDA does.
    if options.channels_last and device.type != "cpu":
        network.to(memory_format=torch.channels_last)
    network.load_state_dict(state)
    return network


def fold_upsamples(network: nn.Module, state: State, dtype: torch.dtype) -> None:
    """Fold every upsampling of a network into its convolution, from `state`, rounded once.

    Args:
        network: Its convolutions are dense, in `dtype`.
        state: Of the network, float32 or wider.
        dtype: Of the folded weights.
    """
    for path, layer in network.named_modules():
        if isinstance(layer, Upsample):
            weight = layer.conv.weight
            exact = torch.empty_like(weight, dtype=torch.float32)
            layer.conv.weight.data = exact.copy_(state[f"{path}.conv.weight"])
            layer.fold(dtype)
            layer.conv.weight.data = layer.conv.weight.data.to(dtype)


def stack_weights(network: nn.Module, paths: Sequence[str]) -> torch.Tensor:
    """The weights of linear layers of one width under each other; theirs become views of it."""
    layers = [network.get_submodule(path) for path in paths]
    weights = [torch.as_tensor(layer.weight) for layer in layers]
    stacked = torch.cat(weights)
    parts = stacked.split([weight.shape[0] for weight in weights])
    for layer, part in zip(layers, parts, strict=True):
        layer.weight = nn.Parameter(part, requires_grad=False)
    return stacked


def _fusion(options: Acceleration) -> Fusion:
    return Fusion(norm=options.fused_norm, pointwise=options.fused_pointwise)
