"""What an integer kernel needs to know of a quantized layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipelines.passionsr.lbq import ActivationQuantizer, Quantizer, SymmetricQuantizer
from pipelines.passionsr.modes import halves

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Segment:
    """One integer product of a layer of mode `fixed`: input channels that share a range.

    code = clip(R((x - offset) * multiplier) - zero, 0, levels) stands for (code + zero) *
    input_step, a weight code for code * weight_steps; R rounds half away from zero.

    Attributes:
        start: First input channel.
        stop: One past the last.
        multiplier: [C] float32.
        offset: [C] float32.
        zero: Integer, at most 0.
        levels: 2^bits - 1.
        input_step: [] float32.
        weight_codes: int8, shaped like the weight, these input channels.
        weight_steps: [O] float32.
    """

    start: int
    stop: int
    multiplier: Tensor
    offset: Tensor
    zero: int
    levels: int
    input_step: Tensor
    weight_codes: Tensor
    weight_steps: Tensor


def make_segments(
    weight: Tensor,
    scale: Tensor,
    offset: Tensor,
    weight_quantizers: Sequence[Quantizer],
    act_quantizers: Sequence[Quantizer],
) -> list[Segment]:
    """One segment for each pair of quantizers.

    Args:
        weight: Smoothed, [O, C, ...].
        scale: [C].
        offset: [C].
        weight_quantizers: One for each half of the input channels, or one for all.
        act_quantizers: As many.
    """
    segments, start, parts = [], 0, len(weight_quantizers)
    cut = (
        halves(whole, dimension, parts)
        for whole, dimension in ((weight, 1), (scale, 0), (offset, 0))
    )
    for weights, inputs, part, scales, offsets in zip(
        weight_quantizers, act_quantizers, *cut, strict=True
    ):
        assert isinstance(weights, SymmetricQuantizer)
        assert isinstance(inputs, ActivationQuantizer)
        step, zero = inputs.grid()
        weight_steps = weights.step()
        segments.append(
            Segment(
                start=start,
                stop=start + len(scales),
                multiplier=inputs.multiplier(scales, step).float(),
                offset=offsets.float(),
                zero=int(zero),
                levels=inputs.levels,
                input_step=step.float(),
                weight_codes=weights.codes(part, weight_steps).to(torch.int8),
                weight_steps=weight_steps.flatten().float(),
            )
        )
        start += len(scales)
    return segments
