"""A network's quantized layers in integers, or in fp8 where that is wanted and possible."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from torch import nn

from pipelines.contract import PipelineError
from pipelines.passionsr.fp8 import Fp8Linear, fp8_takes
from pipelines.passionsr.integer_layers import IntegerConv2d, IntegerLinear
from pipelines.passionsr.layer import QuantizedConv2d, QuantizedLayer, QuantizedLinear
from pipelines.passionsr.network import quantized_attentions
from pipelines.stable_diffusion.vae import Downsample

__all__ = ["Arithmetic", "IntegerConv2d", "IntegerLinear", "make_integer"]

Arithmetic = Literal["int8", "fp8"]


def make_integer(
    network: nn.Module,
    layers: Mapping[str, QuantizedLayer],
    *,
    arithmetic: Arithmetic = "int8",
) -> dict[str, str]:
    """Replace quantized layers of a network by integer ones.

    Args:
        network: Holds the layers; its time embedding is folded into biases before.
        layers: By their keys, as `quantize_network` returned them.
        arithmetic: `fp8` takes the linear layers whose widths are multiples of 16; convolutions and
            all others are int8.

    Returns:
        What each layer became: `int8` or `fp8`.

    Raises:
        PipelineError: A layer cannot be exported, or is not in the network; or the operands of
            attention are quantized.
    """
    if quantized_attentions(network):
        raise PipelineError(
            "attention with quantized operands has no integer form; quantize the network with "
            "quantize_attention=False"
        )
    found = {id(module): path for path, module in network.named_modules()}
    became: dict[str, str] = {}
    for key, layer in layers.items():
        path = found.get(id(layer))
        if path is None:
            raise PipelineError(
                f"layer {key} is not in the network that should compute it in integers: hand over "
                "the layers that quantize_network returned for this network"
            )
        parent, _, name = path.rpartition(".")
        owner = network.get_submodule(parent)
        integer: nn.Module
        if isinstance(layer, QuantizedConv2d):
            outside = owner.padding if isinstance(owner, Downsample) else (0, 0)
            integer, became[key] = IntegerConv2d.from_layer(layer, outside), "int8"
        elif arithmetic == "fp8" and fp8_takes(layer):
            integer, became[key] = Fp8Linear.from_layer(layer), "fp8"
        else:
            assert isinstance(layer, QuantizedLinear)
            integer, became[key] = IntegerLinear.from_layer(layer), "int8"
        owner.register_module(name, integer)
    return became
