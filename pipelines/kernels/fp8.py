"""Linear layers in fp8 (e4m3): static scales, one of the input and one of the weight.

`quantize_fp8` writes clip((x - offset) * multiplier, -448, 448) rounded to e4m3, and `fp8_linear`
multiplies such tensors with float32 sums. NaN stays NaN. On CUDA the product is the vendor's
(sm89 and later); the CPU computes the same numbers, so that both are tested without a card.
"""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from pipelines.kernels import layouts
from pipelines.kernels.operators import on_cuda

Tensor = torch.Tensor

FP8 = torch.float8_e4m3fn
LARGEST = 448.0
OLDEST_CARD = (8, 9)
"""Compute capability from which there are fp8 matrix units."""
MULTIPLE = 16
"""What the vendor's product asks of both widths."""

_LIBRARY = torch.library.Library("pipelines", "FRAGMENT")
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
_LIBRARY.define("quantize_fp8(Tensor x, Tensor quantizer) -> Tensor", tags=_TAGS)
_LIBRARY.define(
    "fp8_linear(Tensor codes, Tensor weight, Tensor scale, Tensor weight_scale, Tensor bias, "
    "ScalarType dtype) -> Tensor",
    tags=_TAGS,
)


def quantize_fp8(x: Tensor, quantizer: Tensor) -> Tensor:
    """Codes of x.

    Args:
        x: [..., C] floating.
        quantizer: [2, C] float32: multiplier and offset.

    Returns:
        [..., C] float8_e4m3fn, contiguous.
    """
    result: Tensor = torch.ops.pipelines.quantize_fp8.default(x, quantizer)
    return result


def fp8_linear(
    codes: Tensor,
    weight: Tensor,
    scale: Tensor,
    weight_scale: Tensor,
    bias: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    """Linear layer on codes.

    Args:
        codes: [..., K] float8_e4m3fn, contiguous.
        weight: [N, K] float8_e4m3fn, contiguous.
        scale: [1] float32, what a code of 1 stands for.
        weight_scale: [1] float32, likewise.
        bias: [N] float32.
        dtype: Of the result.

    Returns:
        [..., N].
    """
    result: Tensor = torch.ops.pipelines.fp8_linear.default(
        codes, weight, scale, weight_scale, bias, dtype
    )
    return result


def _quantize_reference(x: Tensor, quantizer: Tensor) -> Tensor:
    scaled = (x.float() - quantizer[1]).mul_(quantizer[0])
    return scaled.clamp_(-LARGEST, LARGEST).to(FP8).contiguous()


def _linear_reference(
    codes: Tensor,
    weight: Tensor,
    scale: Tensor,
    weight_scale: Tensor,
    bias: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    product = codes.float() @ weight.float().t()
    return product.mul_(scale * weight_scale).add_(bias).to(dtype)


def _linear_cuda(
    codes: Tensor,
    weight: Tensor,
    scale: Tensor,
    weight_scale: Tensor,
    bias: Tensor,
    dtype: torch.dtype,
) -> Tensor:
    narrow = dtype != torch.float32  # the vendor's epilogue has no float32 bias
    result = torch._scaled_mm(
        codes.flatten(0, -2),
        weight.t(),
        scale,
        weight_scale,
        bias=bias.to(dtype) if narrow else None,
        out_dtype=dtype,
    ).view(*codes.shape[:-1], weight.shape[0])
    return result if narrow else result.add_(bias)


def _codes_like(x: Tensor, quantizer: Tensor) -> Tensor:
    return x.new_empty(x.shape, dtype=FP8)


def _empty_rows(codes: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return codes.new_empty((*codes.shape[:-1], weight.shape[0]), dtype=rest[-1])


def _wanted(x: Tensor, quantizer: Tensor) -> bool:
    has_fp8 = torch.cuda.get_device_capability(x.device) >= OLDEST_CARD
    return has_fp8 and layouts.fp8_codes_fit(x, quantizer)


_LIBRARY.impl("quantize_fp8", _quantize_reference, "CPU")
_LIBRARY.impl(
    "quantize_fp8",
    on_cuda(_quantize_reference, "pipelines.kernels.triton_codes", "quantize_fp8", _wanted),
    "CUDA",
)
_LIBRARY.impl("quantize_fp8", _codes_like, "Meta")
_LIBRARY.impl("fp8_linear", _linear_reference, "CPU")
_LIBRARY.impl("fp8_linear", _linear_cuda, "CUDA")
_LIBRARY.impl("fp8_linear", _empty_rows, "Meta")


@register_flop_formula(torch.ops.pipelines.fp8_linear)
def _flops(codes: Any, weight: Any, *_: Any, **__: Any) -> int:
    """Operations of the product: 2 per multiply-add."""
    return int(2 * prod(codes) * weight[0])
