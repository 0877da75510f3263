"""Quantized linear layers in fp8 (e4m3) instead of integers, on cards that have such units.

The learned range gives the input's scale, max(|l|, |u|) / 448; no zero point is needed. Scale and
shift of the transformation are those of the simulation, the shift folded into the bias. The weight
has one scale. The numbers differ from the int8 ones: the grid is finer near zero, and coarser far
from it.
"""

from __future__ import annotations

from typing import Self, TypeGuard

import torch

from pipelines.contract import PipelineError
from pipelines.kernels.fp8 import FP8, LARGEST, MULTIPLE, OLDEST_CARD, fp8_linear, quantize_fp8
from pipelines.passionsr.integer_layers import ExactConstants
from pipelines.passionsr.integer_tables import bias_of, exported_segments
from pipelines.passionsr.layer import QuantizedLayer, QuantizedLinear

Tensor = torch.Tensor

_SMALLEST = 1e-30
"""A weight of zeros divides by this instead."""


def fp8_supported(device: torch.device | str) -> str:
    """Why a device cannot multiply in fp8; nothing where it can. The CPU computes the reference."""
    device = torch.device(device)
    if device.type != "cuda":
        return ""
    found = torch.cuda.get_device_capability(device)
    if found >= OLDEST_CARD:
        return ""
    return (
        f"{torch.cuda.get_device_name(device)} is of compute capability {found[0]}.{found[1]}; fp8 "
        f"needs {OLDEST_CARD[0]}.{OLDEST_CARD[1]} (L20, L40, H100 or newer); use arithmetic=int8"
    )


def fp8_takes(layer: QuantizedLayer) -> TypeGuard[QuantizedLinear]:
    """Whether this is a linear layer of widths that the fp8 product takes."""
    return isinstance(layer, QuantizedLinear) and not any(s % MULTIPLE for s in layer.weight.shape)


class Fp8Linear(ExactConstants):
    """A quantized linear layer in fp8.

    Attributes:
        quantizer: [2, K] float32: multiplier and offset of every input channel.
        weight: [N, K] float8_e4m3fn.
        scale: [1] float32: what an input of 1 stands for.
        weight_scale: Likewise of the weight.
        bias: [N] float32.
    """

    quantizer: Tensor
    weight: Tensor
    scale: Tensor
    weight_scale: Tensor
    bias: Tensor

    @classmethod
    def from_layer(cls, layer: QuantizedLinear) -> Self:
        """The layer as it is now; its later changes do not follow.

        Raises:
            PipelineError: The layer is not in mode `fixed`, not initialised, of widths that fp8
                does not take, or on a card without fp8.
        """
        reason = fp8_supported(layer.weight.device)
        if not fp8_takes(layer):
            shape = "x".join(map(str, layer.weight.shape))
            reason = f"an fp8 product of {shape} is not possible: both must be multiples of 16"
        if reason:
            raise PipelineError(reason)
        segments = exported_segments(layer)
        # The larger of |l| and |u|; halves of one product share one scale.
        reach = [s.input_step * max(-s.zero, s.levels + s.zero) for s in segments]
        scale = torch.stack(reach).amax(dim=0, keepdim=True) / LARGEST
        inverse = torch.cat([s.multiplier * s.input_step for s in segments])
        offset = torch.cat([s.offset for s in segments])
        original = layer.weight.float()
        smoothed = original / inverse
        weight_scale = smoothed.abs().amax()[None].clamp_min(_SMALLEST) / LARGEST
        fp8 = cls()
        fp8.constant("quantizer", torch.stack([inverse / scale, offset]))
        fp8.constant("weight", (smoothed / weight_scale).clamp_(-LARGEST, LARGEST).to(FP8))
        fp8.constant("scale", scale)
        fp8.constant("weight_scale", weight_scale)
        shift = original.double() @ offset.double()
        fp8.constant("bias", (bias_of(layer) + shift).to(torch.float32))
        return fp8

    def forward(self, x: Tensor) -> Tensor:
        codes = quantize_fp8(x, self.quantizer)
        return fp8_linear(codes, self.weight, self.scale, self.weight_scale, self.bias, x.dtype)
