"""The int8 operators of `pipelines.kernels.int8` as Triton kernels (sm80 and later).

Block sizes are fixed rather than autotuned: an image size never seen must run at once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from pipelines.kernels.int8 import LEVELS, SMALLEST_ROW

Tensor = torch.Tensor

BLOCK_M, BLOCK_N, BLOCK_K = 128, 128, 128
"""One 128-byte line of K a row; 3 stages take 64 KiB on sm80 and 96 KiB on sm90, nothing spills."""
GROUP_M = 8
"""Blocks of rows that share the weight's columns in L2 before the next columns are read."""


@triton.jit  # type: ignore[untyped-decorator]
def quantize_rows_kernel(
    x: tl.tensor,
    values: tl.tensor,
    scales: tl.tensor,
    depth: tl.tensor,
    x_stride: tl.tensor,
    values_stride: tl.tensor,
    levels: tl.constexpr,
    smallest: tl.constexpr,
    block: tl.constexpr,
) -> None:
    """One row a program: read once, its largest magnitude, then the rounded quotients."""
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, block)
    inside = columns < depth
    found = tl.load(x + row * x_stride + columns, mask=inside, other=0.0).to(tl.float32)
    largest = tl.max(tl.abs(found), axis=0)
    inverse = tl.div_rn(levels * 1.0, tl.maximum(largest, smallest))
    # Adding and taking away 1.5 * 2^23 leaves a float32 rounded to even, as rint does.
    rounded = (found * inverse + 12582912.0) - 12582912.0
    finite = (rounded >= -levels) & (rounded <= levels)
    rounded = tl.where(finite, rounded, 0.0)
    tl.store(values + row * values_stride + columns, rounded.to(tl.int8), mask=inside)
    # x * 0 is NaN for an infinity or a NaN, which the maximum alone may pass over.
    tl.store(scales + row, largest * (1.0 / levels) + tl.sum(found * 0.0, axis=0))


@triton.jit  # type: ignore[untyped-decorator]
def int8_matmul_kernel(
    left: tl.tensor,
    weight: tl.tensor,
    row_scales: tl.tensor,
    scales: tl.tensor,
    bias: tl.tensor,
    out: tl.tensor,
    rows: tl.tensor,
    columns: tl.tensor,
    depth: tl.tensor,
    out_stride: tl.tensor,
    has_bias: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    block_k: tl.constexpr,
    group_m: tl.constexpr,
) -> None:
    """One block of the result a program: int32 sums over K, scaled, biased and written once."""
    program = tl.program_id(0)
    row_blocks = tl.cdiv(rows, block_m)
    column_blocks = tl.cdiv(columns, block_n)
    group = program // (group_m * column_blocks)
    first = group * group_m
    height = tl.minimum(row_blocks - first, group_m)
    within = program % (group_m * column_blocks)
    m = (first + within % height) * block_m + tl.arange(0, block_m)
    n = (within // height) * block_n + tl.arange(0, block_n)
    k = tl.arange(0, block_k)
    a = left + m.to(tl.int64)[:, None] * depth + k[None, :]
    b = weight + n.to(tl.int64)[None, :] * depth + k[:, None]
    total = tl.zeros((block_m, block_n), dtype=tl.int32)
    for start in range(0, depth, block_k):
        inside = start + k < depth
        x = tl.load(a + start, mask=(m < rows)[:, None] & inside[None, :], other=0)
        w = tl.load(b + start, mask=(n < columns)[None, :] & inside[:, None], other=0)
        total = tl.dot(x, w, acc=total, out_dtype=tl.int32)
    result = total.to(tl.float32)
    result *= tl.load(row_scales + m, mask=m < rows, other=0.0)[:, None]
    result *= tl.load(scales + n, mask=n < columns, other=0.0)[None, :]
    if has_bias:
        result += tl.load(bias + n, mask=n < columns, other=0.0).to(tl.float32)[None, :]
    target = out + m.to(tl.int64)[:, None] * out_stride + n[None, :]
    mask = (m < rows)[:, None] & (n < columns)[None, :]
    tl.store(target, result.to(out.dtype.element_ty), mask=mask)


def launch_quantize_rows(x: Tensor, values: Tensor, scales: Tensor) -> None:
    """See `pipelines.kernels.int8.quantize_rows`."""
    rows, depth = x.shape
    block = triton.next_power_of_2(depth)
    quantize_rows_kernel[(rows,)](
        x, values, scales, depth, x.stride(0), values.stride(0),
        levels=LEVELS, smallest=SMALLEST_ROW, block=block, num_warps=8 if block > 2048 else 4,
        enable_fp_fusion=False,
    )  # fmt: skip


def launch_int8_linear(
    x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    """See `pipelines.kernels.int8.int8_linear`."""
    (rows, depth), columns = x.shape, weight.shape[0]
    values = torch.empty(rows, depth, dtype=torch.int8, device=x.device)
    row_scales = torch.empty(rows, dtype=torch.float32, device=x.device)
    launch_quantize_rows(x, values, row_scales)
    blocks: dict[str, Any] = {"block_m": BLOCK_M, "block_n": BLOCK_N, "block_k": BLOCK_K}
    grid = (triton.cdiv(rows, BLOCK_M) * triton.cdiv(columns, BLOCK_N),)
    int8_matmul_kernel[grid](
        values, weight, row_scales, scales, scales if bias is None else bias, out,
        rows, columns, depth, out.stride(0),
        has_bias=bias is not None, group_m=GROUP_M, num_warps=8, num_stages=3, **blocks,
    )  # fmt: skip
