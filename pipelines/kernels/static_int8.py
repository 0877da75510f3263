"""Layers in int8 with static quantizers (W8A8): codes, their producers and their products.

A code is q = clip(R((x - offset) * multiplier) - zero, 0, levels), R rounding halves away from
zero, stored as the int8 q - 128; (q + zero) times the input's step is what the layer takes x for.
A quantizer is one float32 tensor [3, C] (multiplier, offset, zero of every input channel) and the
number of levels. Producers fuse the pass that makes x with the one that writes its codes. The
arithmetic that decides a code is float32, one correctly rounded operation a step, so that equal x
give equal codes on every device. A code cannot be NaN: NaN becomes code 0, infinities the ends of
the grid, so a half-precision overflow that a norm or a product reads does not show behind it (a
residual keeps it). The simulation in floating point shows it: look there when a result is odd.

Products take weights that are symmetric for each output channel, sum in int32 (exact: no sum of the
full-size networks passes 4e8) and write

    y = (sum of stored codes times weights + correction) * scale + bias + residual

once. `correction` (int32) and `bias` (float32) are tables [classes, O] by border class: which taps
of a 3x3 window lie outside of the map. A tap outside adds nothing to the sum, so the tables carry
what padding stands for: see `pipelines.passionsr.integer`.

Operators have a PyTorch reference (the CPU's implementation) and Triton kernels (sm80 and later).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from pipelines.kernels import layouts, static_int8_reference
from pipelines.kernels.operators import on_cuda
from pipelines.kernels.static_int8_reference import (
    BORDER_CLASSES,
    OFFSET,
    border_classes,
    conv_size,
)

Tensor = torch.Tensor
__all__ = [
    "BORDER_CLASSES",
    "OFFSET",
    "border_classes",
    "conv_size",
    "geglu_quantize",
    "group_norm_quantize",
    "group_normalize_quantize",
    "layer_norm_quantize",
    "quantize_channels",
    "static_int8_conv",
    "static_int8_linear",
]

_LIBRARY = torch.library.Library("pipelines", "FRAGMENT")
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
_QUANTIZER = "Tensor quantizer, int levels"
_NORM = "Tensor weight, Tensor bias, float eps"
_TABLES = "Tensor weight, Tensor scales, Tensor correction, Tensor bias, Tensor? residual"


def quantize_channels(x: Tensor, quantizer: Tensor, levels: int) -> Tensor:
    """Codes of x.

    Args:
        x: [..., C] floating.
        quantizer: [3, C] float32: multiplier, offset and zero.
        levels: The largest code, at most 255.

    Returns:
        [..., C] int8, contiguous.
    """
    result: Tensor = torch.ops.pipelines.quantize_channels.default(x, quantizer, levels)
    return result


def group_normalize_quantize(
    x: Tensor,
    statistics: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    shift: Tensor | None,
    silu: bool,
    quantizer: Tensor,
    levels: int,
) -> Tensor:
    """Codes of `group_normalize`, which is never written: [B, C, H, W] int8 in channels_last."""
    result: Tensor = torch.ops.pipelines.group_normalize_quantize.default(
        x, statistics, weight, bias, eps, shift, silu, quantizer, levels
    )
    return result


def group_norm_quantize(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    shift: Tensor | None,
    silu: bool,
    quantizer: Tensor,
    levels: int,
) -> Tensor:
    """Codes of `group_norm`, which is never written: [B, C, H, W] int8 in channels_last."""
    result: Tensor = torch.ops.pipelines.group_norm_quantize.default(
        x, groups, weight, bias, eps, shift, silu, quantizer, levels
    )
    return result


def layer_norm_quantize(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    quantizers: Sequence[Tensor],
    levels: int,
) -> Tensor:
    """Codes of the LayerNorm of x for several layers, of which each has a quantizer.

    Args:
        x: [..., C].
        weight: [C].
        bias: [C].
        eps: Added to the variance.
        quantizers: [3, C] float32 each; one to three of them.
        levels: Of all of them.

    Returns:
        [n, ..., C] int8.
    """
    result: Tensor = torch.ops.pipelines.layer_norm_quantize.default(
        x, weight, bias, eps, list(quantizers), levels
    )
    return result


def geglu_quantize(x: Tensor, quantizer: Tensor, levels: int) -> Tensor:
    """Codes of `geglu`, which is never written: [..., 2 I] -> [..., I] int8."""
    result: Tensor = torch.ops.pipelines.geglu_quantize.default(x, quantizer, levels)
    return result


def static_int8_linear(
    codes: Tensor,
    weight: Tensor,
    scales: Tensor,
    correction: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Linear layer on codes.

    Args:
        codes: [..., K] int8, its rows contiguous and at equal distances.
        weight: [N, K] int8.
        scales: [N] float32: the input's step times the weight's.
        correction: [1, N] int32, added to the sum.
        bias: [1, N] float32.
        residual: [..., N] floating, or None; added before the one rounding.
        dtype: Of the result.

    Returns:
        [..., N].
    """
    result: Tensor = torch.ops.pipelines.static_int8_linear.default(
        codes, weight, scales, correction, bias, residual, dtype
    )
    return result


def static_int8_conv(
    codes: Tensor,
    weight: Tensor,
    scales: Tensor,
    correction: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    size: Sequence[int],
    stride: int,
    padding: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """1x1 or 3x3 convolution on codes; a tap outside of the map adds nothing to the sum.

    Args:
        codes: [B, C, h, w] int8 in channels_last memory, or some channels of such a map.
        weight: [O, k, k, C] int8.
        scales: [O] float32.
        correction: [16, O] int32 by border class; [1, O] for k = 1.
        bias: Likewise, float32.
        residual: [B, O, H', W'] floating, or None; added before the one rounding.
        size: (H, W) the layer reads: (h, w), or codes upsampled to the nearest neighbour, where
            2 h - 1 <= H <= 2 h, and so for W.
        stride: 1 or 2.
        padding: (before, after) each axis, 0 or 1 each.
        dtype: Of the result.

    Returns:
        [B, O, H', W'] in channels_last memory.
    """
    result: Tensor = torch.ops.pipelines.static_int8_conv.default(
        codes, weight, scales, correction, bias, residual, list(size), stride, list(padding), dtype
    )
    return result


def _codes_like(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.int8)


def _map_codes_like(x: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(x, dtype=torch.int8, memory_format=torch.channels_last)


def _codes_for_each(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, quantizers: list[Tensor], levels: int
) -> Tensor:
    return x.new_empty((len(quantizers), *x.shape), dtype=torch.int8)


def _half_of_the_codes(x: Tensor, *_: Any) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2), dtype=torch.int8)


def _empty_rows(codes: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return codes.new_empty((*codes.shape[:-1], weight.shape[0]), dtype=rest[-1])


def empty_conv(
    codes: Tensor,
    weight: Tensor,
    size: Sequence[int],
    stride: int,
    padding: Sequence[int],
    dtype: torch.dtype,
) -> Tensor:
    """The result of `static_int8_conv`, not filled."""
    sides = conv_size(size, weight.shape[1], stride, padding)
    shape = (codes.shape[0], weight.shape[0], *sides)
    return torch.empty(shape, dtype=dtype, device=codes.device, memory_format=torch.channels_last)


def _empty_conv(codes: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    return empty_conv(codes, weight, *rest[-4:])


for _name, _signature, _module, _wanted, _meta in (
    (
        "quantize_channels",
        f"(Tensor x, {_QUANTIZER}) -> Tensor",
        "codes",
        layouts.codes_fit,
        _codes_like,
    ),
    (
        "group_normalize_quantize",
        f"(Tensor x, Tensor statistics, {_NORM}, Tensor? shift, bool silu, {_QUANTIZER}) -> Tensor",
        "norm_codes",
        layouts.normalize_codes_fit,
        _map_codes_like,
    ),
    (
        "group_norm_quantize",
        f"(Tensor x, int groups, {_NORM}, Tensor? shift, bool silu, {_QUANTIZER}) -> Tensor",
        "norm_codes",
        layouts.norm_codes_fit,
        _map_codes_like,
    ),
    (
        "layer_norm_quantize",
        f"(Tensor x, {_NORM}, Tensor[] quantizers, int levels) -> Tensor",
        "codes",
        layouts.layer_norm_codes_fit,
        _codes_for_each,
    ),
    (
        "geglu_quantize",
        f"(Tensor x, {_QUANTIZER}) -> Tensor",
        "codes",
        layouts.geglu_codes_fit,
        _half_of_the_codes,
    ),
    (
        "static_int8_linear",
        f"(Tensor codes, {_TABLES}, ScalarType dtype) -> Tensor",
        "static_int8",
        layouts.int8_linear_fits,
        _empty_rows,
    ),
    (
        "static_int8_conv",
        f"(Tensor codes, {_TABLES}, int[] size, int stride, int[] padding, ScalarType dtype)"
        " -> Tensor",
        "static_int8",
        layouts.int8_conv_fits,
        _empty_conv,
    ),
):
    _LIBRARY.define(_name + _signature, tags=_TAGS)
    _reference = getattr(static_int8_reference, _name)
    _LIBRARY.impl(_name, _reference, "CPU")
    _launcher = f"pipelines.kernels.triton_{_module}", _name
    _LIBRARY.impl(_name, on_cuda(_reference, *_launcher, _wanted), "CUDA")
    _LIBRARY.impl(_name, _meta, "Meta")


@register_flop_formula(torch.ops.pipelines.static_int8_linear)
def _linear_flops(codes: Any, weight: Any, *_: Any, **__: Any) -> int:
    """Operations of the product, counted like floating-point ones: 2 per multiply-add."""
    return int(2 * prod(codes) * weight[0])


@register_flop_formula(torch.ops.pipelines.static_int8_conv)
def _conv_flops(codes: Any, weight: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    """Likewise; taps outside of the map count, as torch's formula counts them."""
    return int(2 * prod(out_shape) * prod(weight[1:]))
