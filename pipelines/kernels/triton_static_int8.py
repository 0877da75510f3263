"""Products of static int8 codes in Triton: linear layers, and convolutions as implicit products.

A convolution's rows are its windows: K runs over the taps, and within a tap over the channels,
which lie side by side in memory; no window is ever copied. Sums are int32, so that splitting K over
programs changes no bit. Blocks are fixed by shape, not autotuned: a size never seen must run at
once.
"""

from __future__ import annotations

# mypy: disable-error-code="import-untyped, untyped-decorator"
# ruff: noqa: N803
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from pipelines.kernels.blocks import ceil_div
from pipelines.kernels.product_plan import ProductPlan, plan_product
from pipelines.kernels.static_int8 import empty_conv

Tensor = torch.Tensor

GROUP_M = 8
"""Blocks of rows that share the weight's columns in L2 before the next columns are read."""
_FINISH_ROWS, _FINISH_COLUMNS = 8, 128


@triton.jit
def window_kernel(
    m: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    STRIDE: tl.constexpr,
    PAD: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Sample, first row and first column of the windows m."""
    sample = m // (out_height * out_width)
    pixel = m % (out_height * out_width)
    return sample, pixel // out_width * STRIDE - PAD, pixel % out_width * STRIDE - PAD


@triton.jit
def border_kernel(
    top: tl.tensor,
    left: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
) -> tl.tensor:
    """Border class of 3x3 windows."""
    rows = (top < 0).to(tl.int32) + 2 * (top + 3 > height).to(tl.int32)
    return rows + 4 * ((left < 0).to(tl.int32) + 2 * (left + 3 > width).to(tl.int32))


@triton.jit
def finish_kernel(
    total: tl.tensor,
    m: tl.tensor,
    n: tl.tensor,
    scales: tl.tensor,
    correction: tl.tensor,
    bias: tl.tensor,
    residual: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD: tl.constexpr,
    RESIDUAL: tl.constexpr,
) -> None:
    """Integer sums of rows m and columns n -> the result, rounded once."""
    inside = n < columns
    valid = (m < rows)[:, None] & inside[None, :]
    scale = tl.load(scales + n, mask=inside, other=0.0)
    corrections = tl.load(correction + n, mask=inside, other=0)[None, :]
    biases = tl.load(bias + n, mask=inside, other=0.0)[None, :]
    if KERNEL > 1:
        # Few windows touch a border, and only they load rows of the tables of their own.
        _, top, left = window_kernel(m, out_height, out_width, STRIDE, PAD)
        border = border_kernel(top, left, height, width)
        table = border[:, None] * columns + n[None, :]
        touching = (border > 0)[:, None] & valid
        own = tl.load(correction + table, mask=touching, other=0)
        total += tl.where(touching, own, corrections)
        own_bias = tl.load(bias + table, mask=touching, other=0.0)
        biases = tl.where(touching, own_bias, biases)
    else:
        total += corrections
    result = total.to(tl.float32) * scale[None, :] + biases
    target = m.to(tl.int64)[:, None] * columns + n[None, :]
    if RESIDUAL:
        result += tl.load(residual + target, mask=valid, other=0.0).to(tl.float32)
    tl.store(out + target, result.to(out.dtype.element_ty), mask=valid)


@triton.jit(
    do_not_specialize=[
        "rows", "source_height", "source_width", "height", "width", "out_height", "out_width",
        "steps",
    ]
)  # fmt: skip
def product_kernel(
    codes: tl.tensor,
    weight: tl.tensor,
    scales: tl.tensor,
    correction: tl.tensor,
    bias: tl.tensor,
    residual: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    depth: tl.tensor,
    pixel_stride: tl.tensor,
    source_height: tl.tensor,
    source_width: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    steps: tl.tensor,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD: tl.constexpr,
    SHIFT_ROWS: tl.constexpr,
    SHIFT_COLUMNS: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SPLITS: tl.constexpr,
    WHOLE_K: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    GROUP: tl.constexpr,
) -> None:
    """One block of the result, or one split of its sums (then `out` is [SPLITS, rows, columns])."""
    program = tl.program_id(0)
    row_blocks = tl.cdiv(rows, BLOCK_M)
    column_blocks = tl.cdiv(columns, BLOCK_N)
    first_block = program // (GROUP * column_blocks) * GROUP
    group = tl.minimum(row_blocks - first_block, GROUP)
    within = program % (GROUP * column_blocks)
    m = (first_block + within % group) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = (within // group) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    sample, top, left = window_kernel(m, out_height, out_width, STRIDE, PAD)
    channel_blocks = tl.cdiv(depth, BLOCK_K)
    row_of_weight = weight + n.to(tl.int64)[None, :] * (KERNEL * KERNEL * depth) + k[:, None]
    each = tl.cdiv(steps, SPLITS)
    first = tl.program_id(1) * each
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    for step in range(first, tl.minimum(first + each, steps)):
        tap = step // channel_blocks
        channel = (step % channel_blocks) * BLOCK_K
        if KERNEL == 1 and STRIDE == 1:
            pixel = m.to(tl.int64)
            seen = m < rows
        else:
            y = top + tap // KERNEL
            x = left + tap % KERNEL
            seen = (m < rows) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
            pixel = sample.to(tl.int64) * source_height + (y >> SHIFT_ROWS)
            pixel = pixel * source_width + (x >> SHIFT_COLUMNS)
        a = codes + pixel[:, None] * pixel_stride + (channel + k)[None, :]
        b = row_of_weight + (tap * depth + channel)
        if WHOLE_K:
            left_block = tl.load(a, mask=seen[:, None], other=0)
            right_block = tl.load(b, mask=(n < columns)[None, :], other=0)
        else:
            exists = channel + k < depth
            left_block = tl.load(a, mask=seen[:, None] & exists[None, :], other=0)
            right_block = tl.load(b, mask=(n < columns)[None, :] & exists[:, None], other=0)
        total = tl.dot(left_block, right_block, acc=total, out_dtype=tl.int32)
    if SPLITS == 1:
        finish_kernel(
            total, m, n, scales, correction, bias, residual, out, rows, columns,
            height, width, out_height, out_width, KERNEL, STRIDE, PAD, RESIDUAL,
        )  # fmt: skip
    else:
        valid = (m < rows)[:, None] & (n < columns)[None, :]
        target = tl.program_id(1).to(tl.int64) * rows + m
        tl.store(out + target[:, None] * columns + n[None, :], total, mask=valid)


@triton.jit(do_not_specialize=["rows", "height", "width", "out_height", "out_width"])
def merge_splits_kernel(
    partial: tl.tensor,
    scales: tl.tensor,
    correction: tl.tensor,
    bias: tl.tensor,
    residual: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    out_height: tl.tensor,
    out_width: tl.tensor,
    KERNEL: tl.constexpr,
    STRIDE: tl.constexpr,
    PAD: tl.constexpr,
    RESIDUAL: tl.constexpr,
    SPLITS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
) -> None:
    """Partial sums of one block -> the result."""
    column_blocks = tl.cdiv(columns, BLOCK_N)
    m = tl.program_id(0) // column_blocks * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(0) % column_blocks * BLOCK_N + tl.arange(0, BLOCK_N)
    valid = (m < rows)[:, None] & (n < columns)[None, :]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    for split in range(SPLITS):
        source = (split * rows.to(tl.int64) + m)[:, None] * columns + n[None, :]
        total += tl.load(partial + source, mask=valid, other=0)
    finish_kernel(
        total, m, n, scales, correction, bias, residual, out, rows, columns,
        height, width, out_height, out_width, KERNEL, STRIDE, PAD, RESIDUAL,
    )  # fmt: skip


def _launch(
    codes: Tensor,
    tables: tuple[Tensor, ...],
    residual: Tensor | None,
    out: Tensor,
    plan: ProductPlan,
    shape: dict[str, int],
    sizes: dict[str, int],
    options: dict[str, int],
) -> None:
    weight, scales, correction, bias = tables
    rows, columns, splits = shape["rows"], shape["columns"], plan.splits
    grid = ceil_div(rows, plan.block_m) * ceil_div(columns, plan.block_n), splits
    target = out if splits == 1 else out.new_empty((splits, rows, columns), dtype=torch.int32)
    common: dict[str, Any] = {
        "rows": rows, "columns": columns, "scales": scales, "correction": correction, "bias": bias,
        "residual": out if residual is None else residual, "RESIDUAL": residual is not None,
        "SPLITS": splits, **{n: options[n] for n in ("KERNEL", "STRIDE", "PAD")},
        **{n: sizes[n] for n in ("height", "width", "out_height", "out_width")},
    }  # fmt: skip
    product_kernel[grid](
        codes=codes, weight=weight, out=target, depth=shape["depth"], steps=plan.steps,
        pixel_stride=shape["pixel_stride"], source_height=sizes["source_height"],
        source_width=sizes["source_width"], SHIFT_ROWS=options["SHIFT_ROWS"],
        SHIFT_COLUMNS=options["SHIFT_COLUMNS"], WHOLE_K=shape["depth"] % plan.block_k == 0,
        BLOCK_M=plan.block_m, BLOCK_N=plan.block_n, BLOCK_K=plan.block_k, GROUP=GROUP_M,
        num_warps=plan.warps, num_stages=plan.stages, **common,
    )  # fmt: skip
    if splits > 1:
        blocks = ceil_div(rows, _FINISH_ROWS) * ceil_div(columns, _FINISH_COLUMNS)
        merge_splits_kernel[(blocks,)](
            partial=target, out=out, BLOCK_M=_FINISH_ROWS, BLOCK_N=_FINISH_COLUMNS, **common
        )


def static_int8_linear(
    codes: Tensor,
    weight: Tensor,
    scales: Tensor,
    correction: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """Launch; see `pipelines.kernels.static_int8.static_int8_linear`."""
    columns, depth = weight.shape
    rows = codes.numel() // depth
    out = codes.new_empty((*codes.shape[:-1], columns), dtype=dtype)
    shape = {
        "rows": rows, "columns": columns, "depth": depth, "pixel_stride": codes.stride(-2),
    }  # fmt: skip
    sizes = dict.fromkeys(("source_height", "height", "out_height"), 1)
    sizes |= dict.fromkeys(("source_width", "width", "out_width"), rows)
    options = {"KERNEL": 1, "STRIDE": 1, "PAD": 0, "SHIFT_ROWS": 0, "SHIFT_COLUMNS": 0}
    plan = plan_product(rows, columns, depth)
    _launch(codes, (weight, scales, correction, bias), residual, out, plan, shape, sizes, options)
    return out


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
    """Launch; see `pipelines.kernels.static_int8.static_int8_conv`."""
    _, _, source_height, source_width = codes.shape
    columns, kernel, _, depth = weight.shape
    out = empty_conv(codes, weight, size, stride, padding, dtype)
    out_height, out_width = out.shape[2:]
    rows = out.shape[0] * out_height * out_width
    shape = {
        "rows": rows, "columns": columns, "depth": depth, "pixel_stride": codes.stride(3),
    }  # fmt: skip
    sizes = {
        "source_height": source_height, "source_width": source_width,
        "height": size[0], "width": size[1], "out_height": out_height, "out_width": out_width,
    }  # fmt: skip
    options = {
        "KERNEL": kernel, "STRIDE": stride, "PAD": padding[0],
        "SHIFT_ROWS": int(size[0] != source_height), "SHIFT_COLUMNS": int(size[1] != source_width),
    }  # fmt: skip
    plan = plan_product(rows, columns, depth, kernel * kernel)
    _launch(codes, (weight, scales, correction, bias), residual, out, plan, shape, sizes, options)
    return out
