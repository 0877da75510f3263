"""Mish, addends and reflection padding in Triton; and the same padding into a concatenation.

Programs own pixels of the *result* and read the mirrored inputs. Then every program stores whole
rows of channels, one behind the other, and one formula serves interior, edges and corners; programs
that own pixels of the input would store each up to four times under masks. The price are the
border's 2 (H + W) + 4 pixels, read once more, mostly from L2: 4 % of 96x96.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator"
# ruff: noqa: N803

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pipelines.kernels.blocks import ceil_div, plan_blocks
from pipelines.kernels.reference import empty_padded

Tensor = torch.Tensor

_MANY, _FEW = 2048, 1024
"""Results of a program: 16 a thread, or 8, which one load of 16 bytes fills in float16."""
_ENOUGH = 264
"""Programs that give each multiprocessor of the largest cards two."""


@triton.jit
def mirrored(pixel: tl.tensor, height: tl.tensor, width: tl.tensor, PAD: tl.constexpr) -> tl.tensor:
    """Sample, row and column of the input that a pixel of the padded result shows."""
    wide = width + 2 * PAD
    area = (height + 2 * PAD) * wide
    sample = pixel // area
    rest = pixel - sample * area
    row = rest // wide
    column = rest - row * wide
    if PAD:
        row = tl.abs(row - 1)
        row = tl.minimum(row, 2 * (height - 1) - row)
        column = tl.abs(column - 1)
        column = tl.minimum(column, 2 * (width - 1) - column)
    return sample, row, column


@triton.jit(do_not_specialize=["pixels", "height", "width", "extra_height"])
def mish_pad_kernel(
    x: tl.tensor,
    bias: tl.tensor,
    residual: tl.tensor,
    residual_bias: tl.tensor,
    extra: tl.tensor,
    y: tl.tensor,
    pixels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    extra_height: tl.tensor,
    PAD: tl.constexpr,
    RESIDUAL_PAD: tl.constexpr,
    MISH: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
) -> None:
    """One block of results; what is left out is None. `extra_height` is 0 where one serves all."""
    columns = tl.cdiv(channels, BLOCK_CHANNELS)
    channel = (tl.program_id(0) % columns) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    pixel = (tl.program_id(0) // columns) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    inside = channel < channels
    valid = (pixel < pixels)[:, None] & inside[None, :]
    sample, row, column = mirrored(pixel, height, width, PAD)
    source = ((sample * height + row) * width + column).to(tl.int64) * channels
    value = tl.load(x + source[:, None] + channel[None, :], mask=valid, other=0.0).to(tl.float32)
    if bias is not None:
        value += tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    if MISH:
        # tanh(softplus(v)) with u = e^v; from 20 on it is 1 in float32, and e^2v may overflow.
        u = tl.exp(tl.minimum(value, 20.0))
        n = u * (u + 2.0)
        value *= n / (n + 2.0)
    if residual is not None:
        tall = height + 2 * RESIDUAL_PAD
        broad = width + 2 * RESIDUAL_PAD
        beside = (sample * tall + row + RESIDUAL_PAD) * broad + column + RESIDUAL_PAD
        at = residual + beside.to(tl.int64)[:, None] * channels + channel[None, :]
        value += tl.load(at, mask=valid, other=0.0).to(tl.float32)
    if residual_bias is not None:
        value += tl.load(residual_bias + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    if extra is not None:
        beside = (sample * extra_height + row) * width + column
        at = extra + beside.to(tl.int64)[:, None] * channels + channel[None, :]
        value += tl.load(at, mask=valid, other=0.0).to(tl.float32)
    target = y + pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(target, value.to(y.dtype.element_ty), mask=valid)


@triton.jit(do_not_specialize=["pixels", "height", "width"])
def pad_concat_kernel(
    x: tl.tensor,
    bias: tl.tensor,
    skip: tl.tensor,
    y: tl.tensor,
    pixels: tl.tensor,
    height: tl.tensor,
    width: tl.tensor,
    channels: tl.tensor,
    skip_channels: tl.tensor,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
) -> None:
    """One block of results, which lies in x or in the skip: blocks of x come first in a row."""
    columns_of_x = tl.cdiv(channels, BLOCK_CHANNELS)
    columns = columns_of_x + tl.cdiv(skip_channels, BLOCK_CHANNELS)
    block = tl.program_id(0) % columns
    pixel = (tl.program_id(0) // columns) * BLOCK_PIXELS + tl.arange(0, BLOCK_PIXELS)
    target = y + pixel.to(tl.int64)[:, None] * (channels + skip_channels)
    if block < columns_of_x:
        channel = block * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
        inside = channel < channels
        valid = (pixel < pixels)[:, None] & inside[None, :]
        sample, row, column = mirrored(pixel, height, width, 1)
        source = ((sample * height + row) * width + column).to(tl.int64) * channels
        shown = tl.load(x + source[:, None] + channel[None, :], mask=valid, other=0.0)
        shown = shown.to(tl.float32)
        if bias is not None:
            shown += tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
        tl.store(target + channel[None, :], shown.to(y.dtype.element_ty), mask=valid)
    else:
        other = (block - columns_of_x) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
        held = (pixel < pixels)[:, None] & (other < skip_channels)[None, :]
        at = skip + pixel.to(tl.int64)[:, None] * skip_channels + other[None, :]
        tl.store(target + (channels + other)[None, :], tl.load(at, mask=held), mask=held)


def _block_pixels(pixels: int, columns: int, block_channels: int) -> int:
    many = _MANY // block_channels
    return many if ceil_div(pixels, many) * columns >= _ENOUGH else _FEW // block_channels


def mish_pad(
    x: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    residual_bias: Tensor | None = None,
    extra: Tensor | None = None,
    pad: int = 1,
    mish: bool = True,
) -> Tensor:
    """Launch; see `pipelines.kernels.mish_pad`."""
    y = empty_padded(x, x.shape[1], pad)
    channels, height, width = x.shape[1:]
    pixels = y.numel() // channels
    plan = plan_blocks(1, channels, pixels)
    block_pixels = _block_pixels(pixels, plan.columns, plan.block_channels)
    mish_pad_kernel[(ceil_div(pixels, block_pixels) * plan.columns,)](
        x,
        bias,
        residual,
        residual_bias,
        extra,
        y,
        pixels,
        height,
        width,
        channels,
        height if extra is not None and extra.shape[0] > 1 else 0,
        pad,
        0 if residual is None else (residual.shape[2] - height) // 2,
        mish,
        block_pixels,
        plan.block_channels,
    )
    return y


def pad_concat(x: Tensor, bias: Tensor | None, skip: Tensor) -> Tensor:
    """Launch; see `pipelines.kernels.pad_concat`."""
    channels, skip_channels = x.shape[1], skip.shape[1]
    y = empty_padded(x, channels + skip_channels, 1)
    pixels = y.numel() // y.shape[1]
    # The narrower of the two widths, a power of two, divides both where the wider one does.
    block_channels = min(
        plan_blocks(1, c, pixels).block_channels for c in (channels, skip_channels)
    )
    columns = ceil_div(channels, block_channels) + ceil_div(skip_channels, block_channels)
    block_pixels = _block_pixels(pixels, columns, block_channels)
    pad_concat_kernel[(ceil_div(pixels, block_pixels) * columns,)](
        x,
        bias,
        skip,
        y,
        pixels,
        x.shape[2],
        x.shape[3],
        channels,
        skip_channels,
        block_pixels,
        block_channels,
    )
    return y
