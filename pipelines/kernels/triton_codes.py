"""Codes of static int8 in Triton: of a tensor, of its LayerNorm, of its GEGLU; and fp8 codes.

Every launch is without fused multiply-adds: a product and a sum that are rounded together would
give other codes than the reference.
"""

from __future__ import annotations

# mypy: disable-error-code="import-untyped, untyped-decorator"
# ruff: noqa: N803
from collections.abc import Sequence

import torch
import triton
import triton.language as tl

from pipelines.kernels.blocks import ceil_div, plan_blocks, power_of_two
from pipelines.kernels.fp8 import FP8, LARGEST
from pipelines.kernels.layouts import MOST_READERS
from pipelines.kernels.static_int8 import OFFSET

Tensor = torch.Tensor

_GEGLU_COLUMNS = 256
_GEGLU_ELEMENTS = 2048
_ROW_ELEMENTS = 2048
"""Of a program that normalises rows: 16 a thread."""


@triton.jit
def stored_codes(
    value: tl.tensor,
    multiplier: tl.tensor,
    offset: tl.tensor,
    zero: tl.tensor,
    levels: tl.tensor,
    OFFSET: tl.constexpr,
) -> tl.tensor:
    """Codes - 128 of float32 values; halves are rounded away from zero, NaN is code 0."""
    scaled = (value - offset) * multiplier
    whole = tl.floor(tl.abs(scaled) + 0.5)
    code = tl.where(scaled < 0.0, -whole, whole) - zero
    code = tl.where(code > 0.0, tl.minimum(code, levels.to(tl.float32)), 0.0)
    return (code.to(tl.int32) - OFFSET).to(tl.int8)


@triton.jit
def read_quantizer(
    quantizer: tl.tensor, channel: tl.tensor, channels: tl.tensor, inside: tl.tensor
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Multiplier, offset and zero of channels, each [1, channels]."""
    multiplier = tl.load(quantizer + channel, mask=inside, other=0.0)[None, :]
    offset = tl.load(quantizer + channels + channel, mask=inside, other=0.0)[None, :]
    zero = tl.load(quantizer + 2 * channels + channel, mask=inside, other=0.0)[None, :]
    return multiplier, offset, zero


@triton.jit(do_not_specialize=["rows", "steps", "levels"])
def quantize_channels_kernel(
    x: tl.tensor,
    y: tl.tensor,
    quantizer: tl.tensor,
    rows: tl.tensor,
    channels: tl.tensor,
    steps: tl.tensor,
    levels: tl.tensor,
    OFFSET: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
) -> None:
    """One chunk of rows: the channels' vectors are read once for all its steps."""
    columns = tl.cdiv(channels, BLOCK_CHANNELS)
    chunk = tl.program_id(0) // columns
    channel = (tl.program_id(0) % columns) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = channel < channels
    multiplier, offset, zero = read_quantizer(quantizer, channel, channels, inside)
    first = chunk * steps * BLOCK_ROWS
    row = tl.arange(0, BLOCK_ROWS)
    start = first.to(tl.int64) * channels
    offsets = row[:, None] * channels + channel[None, :]
    for step in range(steps):
        valid = (first + step * BLOCK_ROWS + row < rows)[:, None] & inside[None, :]
        value = tl.load(x + start + offsets, mask=valid, other=0.0).to(tl.float32)
        code = stored_codes(value, multiplier, offset, zero, levels, OFFSET)
        tl.store(y + start + offsets, code, mask=valid)
        start += BLOCK_ROWS * channels


@triton.jit(do_not_specialize=["rows", "steps"])
def quantize_fp8_kernel(
    x: tl.tensor,
    y: tl.tensor,
    quantizer: tl.tensor,
    rows: tl.tensor,
    channels: tl.tensor,
    steps: tl.tensor,
    LARGEST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
) -> None:
    """One chunk of rows, as in `quantize_channels_kernel`."""
    columns = tl.cdiv(channels, BLOCK_CHANNELS)
    chunk = tl.program_id(0) // columns
    channel = (tl.program_id(0) % columns) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = channel < channels
    multiplier = tl.load(quantizer + channel, mask=inside, other=0.0)[None, :]
    offset = tl.load(quantizer + channels + channel, mask=inside, other=0.0)[None, :]
    first = chunk * steps * BLOCK_ROWS
    row = tl.arange(0, BLOCK_ROWS)
    start = first.to(tl.int64) * channels
    offsets = row[:, None] * channels + channel[None, :]
    for step in range(steps):
        valid = (first + step * BLOCK_ROWS + row < rows)[:, None] & inside[None, :]
        value = tl.load(x + start + offsets, mask=valid, other=0.0).to(tl.float32)
        scaled = (value - offset) * multiplier
        scaled = tl.clamp(scaled, -LARGEST, LARGEST, propagate_nan=tl.PropagateNan.ALL)
        tl.store(y + start + offsets, scaled.to(tl.float8e4nv), mask=valid)
        start += BLOCK_ROWS * channels


@triton.jit
def row_codes(
    value: tl.tensor,
    quantizer: tl.tensor,
    target: tl.tensor,
    valid: tl.tensor,
    channel: tl.tensor,
    channels: tl.tensor,
    levels: tl.tensor,
    OFFSET: tl.constexpr,
) -> None:
    """Write the codes of whole rows for one layer."""
    inside = channel < channels
    multiplier, offset, zero = read_quantizer(quantizer, channel, channels, inside)
    tl.store(target, stored_codes(value, multiplier, offset, zero, levels, OFFSET), mask=valid)


@triton.jit(do_not_specialize=["rows", "levels"])
def layer_norm_codes_kernel(
    x: tl.tensor,
    y: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    first: tl.tensor,
    second: tl.tensor,
    third: tl.tensor,
    rows: tl.tensor,
    channels: tl.tensor,
    eps: tl.tensor,
    levels: tl.tensor,
    OFFSET: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    LAYERS: tl.constexpr,
) -> None:
    """Some rows, read once: two passes over registers, then one layer's codes after another."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    channel = tl.arange(0, BLOCK_CHANNELS)
    inside = channel < channels
    valid = (row < rows)[:, None] & inside[None, :]
    offsets = row.to(tl.int64)[:, None] * channels + channel[None, :]
    value = tl.load(x + offsets, mask=valid, other=0.0).to(tl.float32)
    count = channels.to(tl.float32)
    value = tl.where(valid, value - (tl.sum(value, axis=1) / count)[:, None], 0.0)
    variance = tl.sum(value * value, axis=1) / count
    value *= tl.rsqrt(variance + eps)[:, None]
    value *= tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    value += tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    target = y + offsets
    size = rows.to(tl.int64) * channels
    row_codes(value, first, target, valid, channel, channels, levels, OFFSET)
    if LAYERS > 1:
        row_codes(value, second, target + size, valid, channel, channels, levels, OFFSET)
    if LAYERS > 2:
        row_codes(value, third, target + 2 * size, valid, channel, channels, levels, OFFSET)


@triton.jit(do_not_specialize=["rows", "levels"])
def geglu_codes_kernel(
    x: tl.tensor,
    y: tl.tensor,
    quantizer: tl.tensor,
    rows: tl.tensor,
    inner: tl.tensor,
    levels: tl.tensor,
    OFFSET: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
) -> None:
    """One block of codes of value * gelu(gate)."""
    columns = tl.cdiv(inner, BLOCK_COLUMNS)
    first = (tl.program_id(0) // columns) * BLOCK_ROWS
    row = tl.arange(0, BLOCK_ROWS)
    column = (tl.program_id(0) % columns) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    inside = column < inner
    valid = (first + row < rows)[:, None] & inside[None, :]
    start = first.to(tl.int64) * inner
    source = x + 2 * start + row[:, None] * (2 * inner) + column[None, :]
    value = tl.load(source, mask=valid, other=0.0).to(tl.float32)
    gate = tl.load(source + inner, mask=valid, other=0.0).to(tl.float32)
    result = value * (0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476)))
    multiplier, offset, zero = read_quantizer(quantizer, column, inner, inside)
    code = stored_codes(result, multiplier, offset, zero, levels, OFFSET)
    tl.store(y + start + row[:, None] * inner + column[None, :], code, mask=valid)


def quantize_channels(x: Tensor, quantizer: Tensor, levels: int) -> Tensor:
    """Launch; see `pipelines.kernels.static_int8.quantize_channels`."""
    channels = x.shape[-1]
    rows = x.numel() // channels
    plan = plan_blocks(1, channels, rows)
    y = torch.empty_like(x, dtype=torch.int8)
    quantize_channels_kernel[(plan.chunks * plan.columns,)](
        x, y, quantizer, rows, channels, plan.steps, levels, OFFSET, plan.block_pixels,
        plan.block_channels, enable_fp_fusion=False,
    )  # fmt: skip
    return y


def quantize_fp8(x: Tensor, quantizer: Tensor) -> Tensor:
    """Launch; see `pipelines.kernels.fp8.quantize_fp8`."""
    channels = x.shape[-1]
    rows = x.numel() // channels
    plan = plan_blocks(1, channels, rows)
    y = torch.empty_like(x, dtype=FP8)
    quantize_fp8_kernel[(plan.chunks * plan.columns,)](
        x, y, quantizer, rows, channels, plan.steps, LARGEST, plan.block_pixels,
        plan.block_channels, enable_fp_fusion=False,
    )  # fmt: skip
    return y


def layer_norm_quantize(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    quantizers: Sequence[Tensor],
    levels: int,
) -> Tensor:
    """Launch; see `pipelines.kernels.static_int8.layer_norm_quantize`."""
    channels, layers = x.shape[-1], len(quantizers)
    rows = x.numel() // channels
    y = x.new_empty((layers, *x.shape), dtype=torch.int8)
    block = power_of_two(channels)
    block_rows = max(1, _ROW_ELEMENTS // block)
    three = [quantizers[min(index, layers - 1)] for index in range(MOST_READERS)]
    layer_norm_codes_kernel[(ceil_div(rows, block_rows),)](
        x, y, weight, bias, *three, rows, channels, eps, levels, OFFSET, block_rows, block, layers,
        enable_fp_fusion=False,
    )  # fmt: skip
    return y


def geglu_quantize(x: Tensor, quantizer: Tensor, levels: int) -> Tensor:
    """Launch; see `pipelines.kernels.static_int8.geglu_quantize`."""
    inner = x.shape[-1] // 2
    rows = x.numel() // (2 * inner)
    y = x.new_empty((*x.shape[:-1], inner), dtype=torch.int8)
    block_columns = min(_GEGLU_COLUMNS, power_of_two(inner))
    block_rows = _GEGLU_ELEMENTS // block_columns
    grid = (ceil_div(rows, block_rows) * ceil_div(inner, block_columns),)
    geglu_codes_kernel[grid](
        x, y, quantizer, rows, inner, levels, OFFSET, block_rows, block_columns,
        enable_fp_fusion=False,
    )  # fmt: skip
    return y
