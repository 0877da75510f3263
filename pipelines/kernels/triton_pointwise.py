"""Residual with bias, and GEGLU, in Triton: one pass each, one rounding."""

# mypy: disable-error-code="import-untyped, untyped-decorator"
# ruff: noqa: N803

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pipelines.kernels.blocks import ceil_div, plan_blocks, power_of_two

Tensor = torch.Tensor

_GEGLU_COLUMNS = 256
_GEGLU_ELEMENTS = 2048
"""Results of a program: 16 a thread, two loads of 16 bytes for each half."""


@triton.jit(do_not_specialize=["pixels", "steps"])
def add_residual_kernel(
    x: tl.tensor,
    residual: tl.tensor,
    shift: tl.tensor,
    y: tl.tensor,
    pixels: tl.tensor,
    channels: tl.tensor,
    steps: tl.tensor,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
) -> None:
    """One chunk of pixels of all samples, whose rows follow each other in memory."""
    columns = tl.cdiv(channels, BLOCK_CHANNELS)
    chunk = tl.program_id(0) // columns
    channel = (tl.program_id(0) % columns) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    inside = channel < channels
    first = chunk * steps * BLOCK_PIXELS
    row = tl.arange(0, BLOCK_PIXELS)
    start = first.to(tl.int64) * channels
    offsets = row[:, None] * channels + channel[None, :]
    bias = tl.zeros((BLOCK_CHANNELS,), tl.float32)
    if HAS_SHIFT:
        bias = tl.load(shift + channel, mask=inside, other=0.0).to(tl.float32)
    for step in range(steps):
        valid = (first + step * BLOCK_PIXELS + row < pixels)[:, None] & inside[None, :]
        value = tl.load(x + start + offsets, mask=valid, other=0.0).to(tl.float32)
        value += tl.load(residual + start + offsets, mask=valid, other=0.0).to(tl.float32)
        value += bias[None, :]
        tl.store(y + start + offsets, value.to(y.dtype.element_ty), mask=valid)
        start += BLOCK_PIXELS * channels


@triton.jit(do_not_specialize=["rows"])
def geglu_kernel(
    x: tl.tensor,
    y: tl.tensor,
    rows: tl.tensor,
    inner: tl.tensor,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_COLUMNS: tl.constexpr,
) -> None:
    """One block of results: value * gelu(gate)."""
    columns = tl.cdiv(inner, BLOCK_COLUMNS)
    first = (tl.program_id(0) // columns) * BLOCK_ROWS
    row = tl.arange(0, BLOCK_ROWS)
    column = (tl.program_id(0) % columns) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    valid = (first + row < rows)[:, None] & (column < inner)[None, :]
    start = first.to(tl.int64) * inner
    source = x + 2 * start + row[:, None] * (2 * inner) + column[None, :]
    value = tl.load(source, mask=valid, other=0.0).to(tl.float32)
    gate = tl.load(source + inner, mask=valid, other=0.0).to(tl.float32)
    result = value * (0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476)))
    target = y + start + row[:, None] * inner + column[None, :]
    tl.store(target, result.to(y.dtype.element_ty), mask=valid)


def add_residual(x: Tensor, residual: Tensor, shift: Tensor | None = None) -> Tensor:
    """Launch; see `pipelines.kernels.add_residual`."""
    batch, channels, height, width = x.shape
    pixels = batch * height * width
    plan = plan_blocks(1, channels, pixels)
    y = torch.empty_like(x)
    add_residual_kernel[(plan.chunks * plan.columns,)](
        x,
        residual,
        shift,
        y,
        pixels,
        channels,
        plan.steps,
        plan.block_pixels,
        plan.block_channels,
        shift is not None,
    )
    return y


def geglu(x: Tensor) -> Tensor:
    """Launch; see `pipelines.kernels.geglu`."""
    inner = x.shape[-1] // 2
    rows = x.numel() // (2 * inner)
    y = x.new_empty((*x.shape[:-1], inner))
    block_columns = min(_GEGLU_COLUMNS, power_of_two(inner))
    block_rows = _GEGLU_ELEMENTS // block_columns
    grid = (ceil_div(rows, block_rows) * ceil_div(inner, block_columns),)
    geglu_kernel[grid](x, y, rows, inner, block_rows, block_columns)
    return y
