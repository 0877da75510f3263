"""The wavelet colour fix in Triton: one launch an axis, exact up to the last roundings.

The images are 8-bit and the taps are integers over 1024 (`taps`), so the tensor cores' float16
products with float32 sums are exact integers: at most 255 * 1024 after the first axis. The second
axis takes these in two parts of 9 bits, each exact again, and the sum of both is rounded once.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator"
# ruff: noqa: N803

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pipelines.kernels.blocks import ceil_div
from pipelines.kernels.taps import BLOCK, DENOMINATOR, tap_blocks

Tensor = torch.Tensor

_ACROSS = 32
"""Lines of a block, across the blurred axis."""
_WARPS = 8


@triton.jit
def _eight_bit(image: tl.tensor) -> tl.tensor:
    """[0, 1] to 0 .. 255 by truncation."""
    return (image * 255.0).to(tl.int32)


@triton.jit
def _block_taps(
    taps: tl.tensor, block: tl.tensor, left_out: tl.tensor, BLOCK: tl.constexpr
) -> tl.tensor:
    """Numerators of one block of results on its window, [BLOCK, 2 BLOCK] float16."""
    entry = tl.where(block < 2, block, tl.maximum(block - left_out, 1))
    row, column = tl.arange(0, BLOCK), tl.arange(0, 2 * BLOCK)
    return tl.load(taps + (entry * BLOCK + row[:, None]) * (2 * BLOCK) + column[None, :])


@triton.jit(
    do_not_specialize=[
        "height",
        "width",
        "left_out",
        "output_channel_stride",
        "output_row_stride",
        "source_channel_stride",
        "source_row_stride",
    ]
)
def blur_rows_kernel(
    output: tl.tensor,
    source: tl.tensor,
    taps: tl.tensor,
    blurred: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    left_out: tl.tensor,
    output_channel_stride: tl.tensor,
    output_row_stride: tl.tensor,
    output_stride: tl.tensor,
    source_channel_stride: tl.tensor,
    source_row_stride: tl.tensor,
    source_stride: tl.tensor,
    BLOCK: tl.constexpr,
    ACROSS: tl.constexpr,
) -> None:
    """Blur source - output along each row -> [3, H, W] float32, integers."""
    columns = tl.cdiv(width, BLOCK)
    block = tl.program_id(0) % columns
    row = (tl.program_id(0) // columns) * ACROSS + tl.arange(0, ACROSS)
    channel = tl.program_id(1).to(tl.int64)
    window = block * BLOCK - BLOCK // 2 + tl.arange(0, 2 * BLOCK)
    read = (row < height)[:, None] & ((window >= 0) & (window < width))[None, :]
    ours = output + channel * output_channel_stride
    ours += row[:, None] * output_row_stride + window[None, :] * output_stride
    theirs = source + channel * source_channel_stride
    theirs += row[:, None] * source_row_stride + window[None, :] * source_stride
    difference = _eight_bit(tl.load(theirs, mask=read, other=0.0))
    difference -= _eight_bit(tl.load(ours, mask=read, other=0.0))
    weights = _block_taps(taps, block, left_out, BLOCK)
    total = tl.dot(difference.to(tl.float16), tl.trans(weights))
    column = block * BLOCK + tl.arange(0, BLOCK)
    target = blurred + channel * height * width + row[:, None] * width + column[None, :]
    tl.store(target, total, mask=(row < height)[:, None] & (column < width)[None, :])


@triton.jit(
    do_not_specialize=["height", "width", "left_out", "output_channel_stride", "output_row_stride"]
)
def blur_columns_kernel(
    output: tl.tensor,
    blurred: tl.tensor,
    taps: tl.tensor,
    result: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    left_out: tl.tensor,
    output_channel_stride: tl.tensor,
    output_row_stride: tl.tensor,
    output_stride: tl.tensor,
    SCALE: tl.constexpr,
    BLOCK: tl.constexpr,
    ACROSS: tl.constexpr,
) -> None:
    """Blur along each column, scale, add the truncated output, clamp -> [3, H, W] float32."""
    columns = tl.cdiv(width, ACROSS)
    block = tl.program_id(0) // columns
    column = (tl.program_id(0) % columns) * ACROSS + tl.arange(0, ACROSS)
    channel = tl.program_id(1).to(tl.int64)
    window = block * BLOCK - BLOCK // 2 + tl.arange(0, 2 * BLOCK)
    read = ((window >= 0) & (window < height))[:, None] & (column < width)[None, :]
    plane = channel * height * width
    offsets = window[:, None] * width + column[None, :]
    value = tl.load(blurred + plane + offsets, mask=read, other=0.0)
    high = tl.floor(value * (1.0 / 512.0))
    low = value - high * 512.0
    weights = _block_taps(taps, block, left_out, BLOCK)
    total = tl.dot(weights, high.to(tl.float16)) * 512.0 + tl.dot(weights, low.to(tl.float16))
    row = block * BLOCK + tl.arange(0, BLOCK)
    valid = (row < height)[:, None] & (column < width)[None, :]
    ours = output + channel * output_channel_stride
    ours += row[:, None] * output_row_stride + column[None, :] * output_stride
    kept = _eight_bit(tl.load(ours, mask=valid, other=0.0)).to(tl.float32)
    # Rounded as the CPU rounds it: where nothing is added, truncation gives back the same 8 bits.
    fixed = tl.div_rn(kept, tl.full(kept.shape, 255.0, tl.float32)) + total * SCALE
    fixed = tl.minimum(tl.maximum(fixed, 0.0), 1.0)
    tl.store(result + plane + row[:, None] * width + column[None, :], fixed, mask=valid)


def wavelet_color_fix(output: Tensor, source: Tensor) -> Tensor:
    """Launch; see `pipelines.kernels.wavelet_color_fix`."""
    channels, height, width = output.shape
    blurred = output.new_empty((channels, height, width))
    taps, left_out = tap_blocks(width, output.device)
    blocks = ceil_div(width, BLOCK) * ceil_div(height, _ACROSS)
    blur_rows_kernel[(blocks, channels)](
        output,
        source,
        taps,
        blurred,
        height,
        width,
        left_out,
        *output.stride(),
        *source.stride(),
        BLOCK,
        _ACROSS,
        num_warps=_WARPS,
    )
    result = torch.empty_like(blurred)
    taps, left_out = tap_blocks(height, output.device)
    blocks = ceil_div(height, BLOCK) * ceil_div(width, _ACROSS)
    blur_columns_kernel[(blocks, channels)](
        output,
        blurred,
        taps,
        result,
        height,
        width,
        left_out,
        *output.stride(),
        1.0 / (255 * DENOMINATOR**2),
        BLOCK,
        _ACROSS,
        num_warps=_WARPS,
    )
    return result
