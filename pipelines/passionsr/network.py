"""Which layers of a flat UNet or VAE are quantized, with how many bits; and their replacement.

In mode `paper` all are, and the published end layers always have 8 bits. In mode `fixed` those
stay in floating point whose error nothing averages (what touches pixels, latents and noise), whose
result is a constant (the timestep, the prompt), or whose channels no int8 kernel takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self

import torch
from torch import nn

from pipelines.contract import PipelineError
from pipelines.passionsr.attention import QuantizedAttention
from pipelines.passionsr.layer import QuantizedLayer
from pipelines.passionsr.settings import LayerSettings
from pipelines.stable_diffusion.layers import Upsample
from pipelines.stable_diffusion.options import TIMESTEP
from pipelines.stable_diffusion.unet import UNet
from pipelines.stable_diffusion.unet_blocks import Attention
from pipelines.stable_diffusion.vae import Decoder, Encoder, Vae

Kind = Literal["unet", "vae"]
_NETWORKS: Mapping[Kind, tuple[type[nn.Module], ...]] = {
    "unet": (UNet,),
    "vae": (Vae, Encoder, Decoder),
}

END_BITS = 8
"""Weights and activations of `PUBLISHED_ENDS` in mode `paper`, whatever the setting."""
PUBLISHED_ENDS = frozenset(
    {
        *("time_embedding.linear_1", "conv_out"),
        *("encoder.conv_out", "decoder.conv_out", "quant_conv", "post_quant_conv"),
    }
)
"""As published, the input convolutions are not among them. `conv_out` is the UNet's, or that of an
encoder or decoder on its own."""

_FLOATING_ENDS = ("conv_in", "conv_out", "quant_conv", "post_quant_conv")
_CONSTANT = ("linear_1", "linear_2", "time_emb_proj")
_CONSTANT_TEXT = ("attn2.to_k", "attn2.to_v")
_ALIGNMENT = 8
_PROJECTIONS = ("to_q.", "to_k.", "to_v.", "to_out.")
_ADAPTED = ".base"
"""Suffix of a layer's path inside an `AdaptedLayer`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """How one network is quantized.

    Attributes:
        layer: Bits, mode, split and smoothing exponent of its layers.
        kind: `unet`, or `vae` for a whole autoencoder, its encoder or its decoder.
        quantize_attention: Queries, keys, softmax and values too. The published code does in the
            UNet; it never does in the VAE.

    Raises:
        PipelineError: Attention of a VAE.
    """

    layer: LayerSettings
    kind: Kind
    quantize_attention: bool = False

    def __post_init__(self) -> None:
        if self.quantize_attention and self.kind == "vae":
            raise PipelineError(
                "quantize_attention is for the UNet; the matrix products of the VAE's attention "
                "stay in floating point"
            )

    @classmethod
    def published(cls, kind: Kind, bits: int) -> Self:
        """The published configurations: split and attention in the UNet, neither in the VAE."""
        in_unet = kind == "unet"
        layer = LayerSettings(
            weight_bits=bits, activation_bits=bits, split=in_unet, mode="paper", s_alpha=0.3
        )
        return cls(layer=layer, kind=kind, quantize_attention=in_unet)

    @classmethod
    def of_mode(cls, kind: Kind, layer: LayerSettings) -> Self:
        """The published configuration of these bits in mode `paper`, else the layer's own."""
        if layer.mode == "paper":
            return cls.published(kind, layer.weight_bits)
        return cls(layer=layer, kind=kind)


def is_quantized(path: str, layer: nn.Module, settings: NetworkSettings) -> bool:
    """Whether the linear or convolution layer at this path (without `.base`) is quantized."""
    if settings.layer.mode == "paper":
        return True
    name = path.rpartition(".")[2]
    if name in _FLOATING_ENDS or name in _CONSTANT or path.endswith(_CONSTANT_TEXT):
        return False
    return all(channels % _ALIGNMENT == 0 for channels in _channels(layer))


def bits_of(path: str, settings: NetworkSettings) -> tuple[int, int]:
    """Bits of weights and activations of the layer at this path."""
    if settings.layer.mode == "paper" and path in PUBLISHED_ENDS:
        return END_BITS, END_BITS
    return settings.layer.weight_bits, settings.layer.activation_bits


def layer_settings(path: str, settings: NetworkSettings) -> LayerSettings:
    """Those of the network with the bits of the layer at this path."""
    weight_bits, activation_bits = bits_of(path, settings)
    return replace(settings.layer, weight_bits=weight_bits, activation_bits=activation_bits)


def quantizable_layers(network: nn.Module) -> Iterator[tuple[str, nn.Linear | nn.Conv2d]]:
    """Path as it is in the network, and layer, of every linear and convolution layer."""
    for path, layer in network.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            yield path, layer


def plain_path(path: str) -> str:
    """Diffusers' path of a layer, also where the network has it inside an `AdaptedLayer`."""
    return path.removesuffix(_ADAPTED)


def quantize_network(network: nn.Module, settings: NetworkSettings) -> dict[str, QuantizedLayer]:
    """Replace the layers of a network by quantized ones that share their weights.

    An `AdaptedLayer` keeps its low-rank branch; only its base is replaced.

    Args:
        network: Flat UNet, VAE, encoder or decoder; changed in place.
        settings: Decide which layers, and how.

    Returns:
        diffusers' path -> quantized layer, in the order of the network.

    Raises:
        PipelineError: The network is of the other kind, already quantized, has weights that other
            modules hold merged (folded upsampling, fused queries, keys and values), or nothing in
            it can be quantized.
    """
    _check(network, settings)
    layers = {}
    for place, layer in list(quantizable_layers(network)):
        path = plain_path(place)
        if not is_quantized(path, layer, settings):
            continue
        own = layer_settings(path, settings)
        layers[path] = QuantizedLayer.wrap(
            layer,
            weight_bits=own.weight_bits,
            activation_bits=own.activation_bits,
            split=own.split,
            mode=own.mode,
            s_alpha=own.s_alpha,
        )
        layers[path].name = path
        _replace(network, place, layers[path])
    if not layers:
        raise PipelineError(
            f"nothing to quantize in this {settings.kind}: no layer has input and output channels "
            f"that are multiples of {_ALIGNMENT}"
        )
    if settings.quantize_attention:
        for path, module in list(network.named_modules()):
            if isinstance(module, Attention):
                attention = QuantizedAttention(module, settings.layer)
                attention.name = path
                _replace(network, path, attention)
    return layers


def quantized_attentions(network: nn.Module) -> dict[str, QuantizedAttention]:
    """Path -> attention block whose operands are quantized."""
    return {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, QuantizedAttention)
    }


def learned_parameters(module: QuantizedLayer | QuantizedAttention) -> dict[str, nn.Parameter]:
    """Scales, shifts and bounds by their published names; of an attention block only its own."""
    return {
        name: parameter
        for name, parameter in module.named_parameters()
        if not name.startswith(_PROJECTIONS)
    }


def learned_tensors(module: QuantizedLayer | QuantizedAttention) -> dict[str, torch.Tensor]:
    """The same and the constants that belong to bounds: with the weight, the whole function."""
    buffers = module.named_buffers()
    constants = {name: x for name, x in buffers if not name.startswith(_PROJECTIONS)}
    return {**learned_parameters(module), **constants}


@torch.no_grad()
def load_learned(
    module: QuantizedLayer | QuantizedAttention, tensors: Mapping[str, torch.Tensor]
) -> None:
    """Inverse of `learned_tensors`; nothing is taken from data any more."""
    module.load_state_dict(tensors, strict=False)
    module.mark_initialized()
    for name, buffer in module.named_buffers():  # no part of the published state
        if name in tensors:
            buffer.copy_(tensors[name])


def planned_layers(
    config: Mapping[str, Any], settings: NetworkSettings
) -> dict[str, LayerSettings]:
    """What `quantize_network` would quantize in a UNet or a whole VAE of that config.

    Args:
        config: The snapshot's `unet/config.json` or `vae/config.json`.
        settings: Decide which layers, and how.

    Returns:
        diffusers' path -> the layer's own settings.
    """
    with torch.device("meta"):
        network = UNet(config, TIMESTEP) if settings.kind == "unet" else Vae(config)
    return {
        path: layer_settings(path, settings)
        for path, layer in quantizable_layers(network)
        if is_quantized(path, layer, settings)
    }


def _channels(layer: nn.Module) -> tuple[int, int]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    assert isinstance(layer, nn.Conv2d)
    return layer.in_channels, layer.out_channels


def _replace(network: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    network.get_submodule(parent).register_module(name, module)


def _check(network: nn.Module, settings: NetworkSettings) -> None:
    if not isinstance(network, _NETWORKS[settings.kind]):
        raise PipelineError(
            f"settings of a {settings.kind} given for a {type(network).__name__}; choose the kind "
            "of this network"
        )
    for path, module in network.named_modules():
        if isinstance(module, QuantizedLayer):
            raise PipelineError(f"{path} is quantized already; a network is quantized once")
        if isinstance(module, Upsample) and module.folded is not None:
            raise PipelineError(
                f"{path} has its upsampling folded into its weight, which would bypass the "
                "quantized one; set fold_upsample=false"
            )
        if isinstance(module, Attention) and module.to_qkv is not None:
            raise PipelineError(
                f"{path} makes queries, keys and values in one product, which would bypass the "
                "quantized ones; set fused_qkv=false"
            )
