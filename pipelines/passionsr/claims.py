"""The published savings in size and operations, as the arithmetic that reproduces them.

PassionSR reports 82 and 86 % fewer parameters, 75 and 81 % fewer operations (W8A8, W6A6). These are
bit widths over 32, with the prompt encoder left out of the quantized program: numbers of a float32
baseline, no measurement. Half of each saving is there in fp16 already.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.passionsr.costs import Part, PartCost
from pipelines.stable_diffusion.architecture import published_json

FULL_BITS = 32
OSEDIFF_RANK = 4
_UNADAPTED = ("time_embedding.", "time_emb_proj")
_ADAPTED_VAE = ("encoder.", "quant_conv")


@dataclass(frozen=True, slots=True)
class Savings:
    """What is saved of OSEDiff in float32, as fractions, and what is left.

    Attributes:
        parameters: Weighted by their bits.
        operations: Multiply-adds weighted by the bits of their operands.
        bytes: Of all numbers of UNet and VAE at those bits.
    """

    parameters: float
    operations: float
    bytes: int


def published_savings(costs: Mapping[Part, PartCost], bits: int) -> Savings:
    """Savings by bit widths alone: every number and every multiply-add at `bits`.

    Args:
        costs: `unet`, `encoder` and `decoder` at the published sizes, for one image.
        bits: Of weights and activations.
    """
    text = published_json("text_encoder/config.json")
    parameters = sum(cost.parameters for cost in costs.values())
    macs = sum(
        cost.attention_macs + sum(layer.macs for layer in cost.layers.values())
        for cost in costs.values()
    )
    removed = text_encoder_parameters(text) + adapter_parameters(costs)
    width = bits / FULL_BITS
    return Savings(
        parameters=1 - width * parameters / (parameters + removed),
        operations=1 - width * macs / (macs + text_encoder_macs(text)),
        bytes=parameters * bits // 8,
    )


def text_encoder_parameters(config: Mapping[str, Any]) -> int:
    """Of a CLIP text encoder with that `text_encoder/config.json`."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    attention = 4 * (width * width + width)
    layer = attention + 2 * width * inner + inner + width + 4 * width
    tables = (config["vocab_size"] + config["max_position_embeddings"]) * width
    return int(tables + config["num_hidden_layers"] * layer + 2 * width)


def text_encoder_macs(config: Mapping[str, Any]) -> int:
    """For one prompt, padded to all positions."""
    width, inner = config["hidden_size"], config["intermediate_size"]
    tokens = config["max_position_embeddings"]
    layer = tokens * (4 * width * width + 2 * width * inner) + 2 * tokens * tokens * width
    return int(config["num_hidden_layers"] * layer)


def adapter_parameters(costs: Mapping[Part, PartCost]) -> int:
    """OSEDiff's LoRA: every UNet layer but the timestep's, the encoder with its 1x1 convolution."""
    adapted = [
        layer
        for part, cost in costs.items()
        for path, layer in cost.layers.items()
        if (
            not any(name in path for name in _UNADAPTED)
            if part == "unet"
            else path.startswith(_ADAPTED_VAE)
        )
    ]
    return sum(OSEDIFF_RANK * (layer.weights // layer.outputs + layer.outputs) for layer in adapted)
