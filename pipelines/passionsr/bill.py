"""The bill of a quantization: bytes and multiply-adds by type, and what share of them is quantized.

`python -m pipelines.passionsr.bill [--bits 8] [--size 512x512] [--json]` prints it for the
published sizes, Stable Diffusion 2.1 with merged adapters.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, get_args

from pipelines.contract import PipelineError
from pipelines.passionsr.claims import Savings, published_savings
from pipelines.passionsr.costs import (
    Inputs,
    LayerCost,
    LayerKind,
    Part,
    PartCost,
    part_costs,
    without_constants,
)
from pipelines.passionsr.network import NetworkSettings, planned_layers
from pipelines.passionsr.settings import LayerSettings, Mode
from pipelines.stable_diffusion.architecture import published_json
from pipelines.stable_diffusion.options import VAE_FACTOR, OneStepOptions

__all__ = ["HALF_BYTES", "KINDS", "Bill", "Inputs", "PartBill", "Plan", "Ranks", "bill"]

Plan = Mapping[str, Mapping[str, LayerSettings]]
"""Component (`unet`, `vae`) -> path of a quantized layer -> its bits. What is not in it floats."""
Ranks = Mapping[str, Mapping[str, int]]
"""Component -> path of a layer with a low-rank branch beside it -> rank."""

KINDS = (*get_args(LayerKind), "attention", "adapter")
FULL_BYTES, HALF_BYTES = 4, 2
_MEGA, _GIGA = 1e6, 1e9


@dataclass(frozen=True, slots=True)
class PartBill:
    """Of one network, or half of the autoencoder.

    Attributes:
        parameters: Numbers it has in full precision, adapters on paths of their own included.
        quantized_parameters: Those of them that are weights of quantized layers.
        code_bytes: Their codes, packed at their bits.
        scale_bytes: Float32 beside the codes: bounds or steps of each output channel, bounds of the
            input, scale and shift of each input channel, biases.
        floating_bytes: All the rest, as fp16.
        macs: Multiply-adds by kind (`KINDS`).
        quantized_macs: Those of them whose operands are both quantized.
    """

    parameters: int
    quantized_parameters: int
    code_bytes: int
    scale_bytes: int
    floating_bytes: int
    macs: Mapping[str, int]
    quantized_macs: Mapping[str, int]

    @property
    def quantized_bytes(self) -> int:
        """All that is stored."""
        return self.code_bytes + self.scale_bytes + self.floating_bytes


@dataclass(frozen=True, slots=True)
class Bill:
    """Of all networks of one image, by part: `unet`, `encoder`, `decoder`."""

    parts: Mapping[Part, PartBill]

    @property
    def total(self) -> PartBill:
        """The sum of the parts."""
        parts = self.parts.values()

        def by_kind(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
            counts = list(counts)
            return {kind: sum(count[kind] for count in counts) for kind in KINDS}

        return PartBill(
            parameters=sum(part.parameters for part in parts),
            quantized_parameters=sum(part.quantized_parameters for part in parts),
            code_bytes=sum(part.code_bytes for part in parts),
            scale_bytes=sum(part.scale_bytes for part in parts),
            floating_bytes=sum(part.floating_bytes for part in parts),
            macs=by_kind(part.macs for part in parts),
            quantized_macs=by_kind(part.quantized_macs for part in parts),
        )

    @property
    def share(self) -> float:
        """Quantized multiply-adds over all, 0..1."""
        total = self.total
        return sum(total.quantized_macs.values()) / sum(total.macs.values())


def bill(
    unet: Mapping[str, Any],
    vae: Mapping[str, Any],
    plan: Plan,
    inputs: Inputs,
    *,
    folded: bool,
    ranks: Ranks | None = None,
) -> Bill:
    """Count what one image stores and multiplies.

    Args:
        unet: The snapshot's `unet/config.json`.
        vae: The snapshot's `vae/config.json`.
        plan: Which layers are quantized.
        inputs: What the networks see.
        folded: Leave out the constant layers that the optimized pipelines compute beforehand (the
            timestep's, the prompt's keys and values).
        ranks: Layers whose adapter is applied on a path of its own, in floating point.
    """
    costs = part_costs(unet, vae, inputs)
    return priced(folded_costs(costs) if folded else costs, plan, ranks or {})


def folded_costs(costs: Mapping[Part, PartCost]) -> dict[Part, PartCost]:
    """The same with what the optimized pipelines compute beforehand left out."""
    return {**costs, "unet": without_constants(costs["unet"])}


def priced(costs: Mapping[Part, PartCost], plan: Plan, ranks: Ranks) -> Bill:
    """The bill of networks that were counted; see `bill`."""
    parts: dict[Part, PartBill] = {}
    for part, cost in costs.items():
        component = "unet" if part == "unet" else "vae"
        layers = plan.get(component, {})
        found = _part_bill(cost, layers, ranks.get(component, {}))
        if part == "unet" and any(layer.mode == "paper" for layer in layers.values()):
            # As published, both operands of its products are quantized too.
            attention = {"attention": cost.attention_macs}
            found = replace(found, quantized_macs={**found.quantized_macs, **attention})
        parts[part] = found
    return Bill(parts)


def _part_bill(
    cost: PartCost, plan: Mapping[str, LayerSettings], ranks: Mapping[str, int]
) -> PartBill:
    macs, quantized = Counter(dict.fromkeys(KINDS, 0)), Counter(dict.fromkeys(KINDS, 0))
    macs["attention"] = cost.attention_macs
    codes = scales = weights = biases = adapters = 0
    for path, layer in cost.layers.items():
        macs[layer.kind] += layer.macs
        if rank := ranks.get(path, 0):
            fan_in = layer.weights // layer.outputs
            adapters += rank * (fan_in + layer.outputs)
            macs["adapter"] += layer.positions * rank * (fan_in + rank + layer.outputs)
        if path in plan:
            quantized[layer.kind] += layer.macs
            codes += -(-layer.weights * plan[path].weight_bits // 8)
            scales += FULL_BYTES * _scale_numbers(layer, plan[path])
            weights += layer.weights
            biases += layer.outputs * layer.biased
    return PartBill(
        parameters=cost.parameters + adapters,
        quantized_parameters=weights,
        code_bytes=codes,
        scale_bytes=scales,
        floating_bytes=HALF_BYTES * (cost.parameters + adapters - weights - biases),
        macs=dict(macs),
        quantized_macs=dict(quantized),
    )


def _scale_numbers(layer: LayerCost, settings: LayerSettings) -> int:
    ranges = 2 if settings.split else 1
    weight_bounds = 1 if settings.mode == "fixed" else 2  # symmetric: one bound is the other's
    bounds = ranges * (weight_bounds * layer.outputs + 2)
    return bounds + 2 * layer.inputs + layer.outputs * layer.biased


def published_plan(settings: LayerSettings) -> Plan:
    """What is quantized at the published sizes; mode `paper` always splits the UNet's layers."""
    of_unet = replace(settings, split=True) if settings.mode == "paper" else settings
    configs = {kind: published_json(f"{kind}/config.json") for kind in ("unet", "vae")}
    return {
        "unet": planned_layers(configs["unet"], NetworkSettings(layer=of_unet, kind="unet")),
        "vae": planned_layers(configs["vae"], NetworkSettings(layer=settings, kind="vae")),
    }


def as_table(found: Bill) -> str:
    """The bill for people: megabytes of 10^6 bytes, thousand millions of multiply-adds."""
    rows = [["part", "params M", "fp32 MB", "fp16 MB", "quantized MB", "GMAC", *KINDS, "quantized"]]
    for name, part in (*found.parts.items(), ("total", found.total)):
        macs, quantized = sum(part.macs.values()), sum(part.quantized_macs.values())
        rows.append(
            [
                name,
                f"{part.parameters / _MEGA:.1f}",
                f"{FULL_BYTES * part.parameters / _MEGA:.1f}",
                f"{HALF_BYTES * part.parameters / _MEGA:.1f}",
                f"{part.quantized_bytes / _MEGA:.1f}",
                f"{macs / _GIGA:.1f}",
                *(f"{part.macs[kind] / macs:.1%}" for kind in KINDS),
                f"{quantized / macs:.1%}",
            ]
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "\n".join(lines) + "\n"


def _told(savings: Savings, bits: int) -> str:
    return (
        f"as published, everything at {bits} bits instead of 32 and no prompt encoder: "
        f"{savings.bytes / _MEGA:.1f} MB; {savings.parameters:.1%} of the parameters and "
        f"{savings.operations:.1%} of the operations saved"
    )


def _size(text: str) -> tuple[int, int]:
    """`WxH` of the output in pixels -> height and width in latents."""
    sides = text.split("x")
    if len(sides) != 2 or not all(side.isdecimal() and int(side) >= VAE_FACTOR for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r}: WIDTHxHEIGHT in pixels, such as 512x512")
    if any(int(side) % VAE_FACTOR for side in sides):
        raise argparse.ArgumentTypeError(f"{text!r}: sides must be multiples of {VAE_FACTOR}")
    width, height = (int(side) // VAE_FACTOR for side in sides)
    return height, width


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the bill at the published sizes.

    Args:
        arguments: The command line; None takes the process's.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.passionsr.bill",
        description="Bytes and multiply-adds of Stable Diffusion 2.1, and what is quantized.",
    )
    parser.add_argument("--bits", type=int, default=8, help="of weights and activations")
    parser.add_argument("--mode", choices=get_args(Mode), default="fixed")
    parser.add_argument("--size", type=_size, default="512x512", help="of the output")
    parser.add_argument("--untiled", action="store_true", help="no tiles, whatever the size")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args(arguments)
    whole = partial(Inputs.tiled, options=OneStepOptions())
    inputs = (Inputs.untiled if chosen.untiled else whole)(*chosen.size)
    try:
        settings = LayerSettings(
            weight_bits=chosen.bits, activation_bits=chosen.bits, mode=chosen.mode
        )
    except PipelineError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    unet, vae = (published_json(f"{kind}/config.json") for kind in ("unet", "vae"))
    costs = part_costs(unet, vae, inputs)
    # What the optimized pipelines run, or what the published program runs.
    ours = folded_costs(costs) if settings.mode == "fixed" else costs
    found, savings = (
        priced(ours, published_plan(settings), {}),
        published_savings(costs, chosen.bits),
    )
    if chosen.json:
        content = asdict(found) | {"total": asdict(found.total), "share": found.share}
        content["as_published"] = asdict(savings)
        sys.stdout.write(json.dumps(content, indent=1) + "\n")
    else:
        sys.stdout.write(f"{as_table(found)}{_told(savings, chosen.bits)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
