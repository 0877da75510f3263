"""GroupNorm of NHWC feature maps in Triton: statistics per channel, merged per group, applied.

The first kernel knows nothing of groups, so every group size reads whole rows of channels: each
(row of the block, channel) keeps a running mean and sum of squared deviations (Welford 1962) in
registers; blocks are merged by Chan's formula (Chan, Golub and LeVeque 1979). No atomics: equal
inputs give equal bits. A bias before the norm only moves the channels' means, so it enters in the
merge and costs no pass.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator"
# ruff: noqa: N803

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pipelines.kernels.blocks import BlockPlan, plan_blocks, power_of_two

Tensor = torch.Tensor

_FEW_MOMENTS, _MANY_MOMENTS = 1024, 2048
"""Entries that one step of the merge takes, with four and with eight warps: 8 a thread."""


@triton.jit(do_not_specialize=["pixels", "steps"])
def partial_moments_kernel(
    x: tl.tensor,
    moments: tl.tensor,
    pixels: tl.tensor,
    channels: tl.tensor,
    steps: tl.tensor,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
) -> None:
    """Mean and sum of squared deviations of each channel of a chunk -> [B, chunks, 2, C]."""
    columns = tl.cdiv(channels, BLOCK_CHANNELS)
    chunk = tl.program_id(0) // columns
    channel = (tl.program_id(0) % columns) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    sample = tl.program_id(1).to(tl.int64)
    first = chunk * steps * BLOCK_PIXELS
    row = tl.arange(0, BLOCK_PIXELS)
    inside = (channel < channels)[None, :]
    start = x + (sample * pixels + first) * channels
    offsets = row[:, None] * channels + channel[None, :]
    mean = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    deviation = tl.zeros((BLOCK_PIXELS, BLOCK_CHANNELS), tl.float32)
    for step in range(steps):
        valid = (first + step * BLOCK_PIXELS + row < pixels)[:, None] & inside
        value = tl.load(start + offsets, mask=valid, other=0.0).to(tl.float32)
        difference = tl.where(valid, value - mean, 0.0)
        mean += difference * (1.0 / (step + 1))
        deviation += difference * tl.where(valid, value - mean, 0.0)
        start += BLOCK_PIXELS * channels
    rows_left = tl.cdiv(pixels - first - row, BLOCK_PIXELS)
    count = tl.minimum(tl.maximum(rows_left, 0), steps).to(tl.float32)[:, None]
    total = tl.minimum(pixels - first, steps * BLOCK_PIXELS).to(tl.float32)
    merged = tl.sum(mean * count, axis=0) / total
    between = mean - merged[None, :]
    squares = tl.sum(deviation + count * between * between, axis=0)
    chunks = tl.num_programs(0) // columns
    target = moments + (sample * chunks + chunk) * 2 * channels + channel
    tl.store(target, merged, mask=channel < channels)
    tl.store(target + channels, squares, mask=channel < channels)


@triton.jit(do_not_specialize=["pixels", "chunk_pixels", "chunks", "group_channels"])
def merge_moments_kernel(
    moments: tl.tensor,
    shift: tl.tensor,
    statistics: tl.tensor,
    pixels: tl.tensor,
    chunk_pixels: tl.tensor,
    chunks: tl.tensor,
    channels: tl.tensor,
    group_channels: tl.tensor,
    BLOCK_CHUNKS: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
) -> None:
    """Chunks and channels of one group of one sample -> mean and biased variance."""
    group = tl.program_id(0)
    sample = tl.program_id(1).to(tl.int64)
    member = tl.arange(0, BLOCK_GROUP)
    channel = group * group_channels + member
    inside = member < group_channels
    row = tl.arange(0, BLOCK_CHUNKS)
    start = moments + sample * chunks * 2 * channels
    offsets = row[:, None] * (2 * channels) + channel[None, :]
    bias = tl.zeros((BLOCK_GROUP,), tl.float32)
    if HAS_SHIFT:
        bias = tl.load(shift + channel, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros((BLOCK_CHUNKS, BLOCK_GROUP), tl.float32)
    for first in range(0, chunks, BLOCK_CHUNKS):
        chunk = first + row
        valid = (chunk < chunks)[:, None] & inside[None, :]
        count = tl.minimum(pixels - chunk * chunk_pixels, chunk_pixels).to(tl.float32)
        here = start + first * 2 * channels + offsets
        mean = tl.load(here, mask=valid, other=0.0) + bias[None, :]
        total += tl.where(valid, mean * count[:, None], 0.0)
    elements = pixels.to(tl.float32) * group_channels
    merged = tl.sum(tl.sum(total, axis=1), axis=0) / elements
    squares = tl.zeros((BLOCK_CHUNKS, BLOCK_GROUP), tl.float32)
    for first in range(0, chunks, BLOCK_CHUNKS):
        chunk = first + row
        valid = (chunk < chunks)[:, None] & inside[None, :]
        count = tl.minimum(pixels - chunk * chunk_pixels, chunk_pixels).to(tl.float32)
        here = start + first * 2 * channels + offsets
        between = tl.load(here, mask=valid, other=0.0) + bias[None, :] - merged
        within = tl.load(here + channels, mask=valid, other=0.0)
        squares += tl.where(valid, within + count[:, None] * between * between, 0.0)
    variance = tl.sum(tl.sum(squares, axis=1), axis=0) / elements
    target = statistics + (sample * tl.num_programs(0) + group) * 2
    tl.store(target, merged)
    tl.store(target + 1, variance)


@triton.jit
def channel_terms(
    statistics: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    shift: tl.tensor,
    channel: tl.tensor,
    inside: tl.tensor,
    statistics_stride: tl.tensor,
    group_channels: tl.tensor,
    eps: tl.tensor,
    HAS_SHIFT: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """What normalises channels of the program's sample: centre, factor and addend, float32."""
    sample = tl.program_id(1).to(tl.int64)
    moments = statistics + sample * statistics_stride + (channel // group_channels) * 2
    centre = tl.load(moments, mask=inside, other=0.0)
    variance = tl.load(moments + 1, mask=inside, other=0.0)
    if HAS_SHIFT:
        centre -= tl.load(shift + channel, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    factor *= tl.rsqrt(variance + eps)
    addend = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    return centre, factor, addend


@triton.jit
def normalized(
    value: tl.tensor,
    centre: tl.tensor,
    factor: tl.tensor,
    addend: tl.tensor,
    SILU: tl.constexpr,
) -> tl.tensor:
    """(value [pixels, channels] - centre) * factor + addend, and SiLU of that."""
    value = (value - centre[None, :]) * factor[None, :] + addend[None, :]
    if SILU:
        value *= tl.sigmoid(value)
    return value


@triton.jit(do_not_specialize=["pixels", "steps", "statistics_stride", "group_channels"])
def normalize_kernel(
    x: tl.tensor,
    y: tl.tensor,
    statistics: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    shift: tl.tensor,
    pixels: tl.tensor,
    channels: tl.tensor,
    steps: tl.tensor,
    statistics_stride: tl.tensor,
    group_channels: tl.tensor,
    eps: tl.tensor,
    BLOCK_PIXELS: tl.constexpr,
    BLOCK_CHANNELS: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    SILU: tl.constexpr,
) -> None:
    """One chunk of pixels: the channels' vectors are read once for all its steps."""
    columns = tl.cdiv(channels, BLOCK_CHANNELS)
    chunk = tl.program_id(0) // columns
    channel = (tl.program_id(0) % columns) * BLOCK_CHANNELS + tl.arange(0, BLOCK_CHANNELS)
    sample = tl.program_id(1).to(tl.int64)
    inside = channel < channels
    centre, factor, addend = channel_terms(
        statistics, weight, bias, shift, channel, inside, statistics_stride, group_channels, eps,
        HAS_SHIFT,
    )  # fmt: skip
    first = chunk * steps * BLOCK_PIXELS
    row = tl.arange(0, BLOCK_PIXELS)
    start = (sample * pixels + first) * channels
    offsets = row[:, None] * channels + channel[None, :]
    for step in range(steps):
        valid = (first + step * BLOCK_PIXELS + row < pixels)[:, None] & inside[None, :]
        value = tl.load(x + start + offsets, mask=valid, other=0.0).to(tl.float32)
        value = normalized(value, centre, factor, addend, SILU)
        tl.store(y + start + offsets, value.to(y.dtype.element_ty), mask=valid)
        start += BLOCK_PIXELS * channels


def _cut(x: Tensor) -> tuple[int, int, BlockPlan]:
    batch, channels, height, width = x.shape
    pixels = height * width
    return channels, pixels, plan_blocks(batch, channels, pixels)


def group_statistics(x: Tensor, groups: int, shift: Tensor | None = None) -> Tensor:
    """Launch; see `pipelines.kernels.group_statistics`."""
    channels, pixels, plan = _cut(x)
    batch = x.shape[0]
    moments = x.new_empty((batch, plan.chunks, 2, channels), dtype=torch.float32)
    partial_moments_kernel[(plan.chunks * plan.columns, batch)](
        x, moments, pixels, channels, plan.steps, plan.block_pixels, plan.block_channels
    )
    statistics = x.new_empty((batch, groups, 2), dtype=torch.float32)
    block_group = power_of_two(channels // groups)
    many = plan.chunks * block_group > _FEW_MOMENTS
    merge_moments_kernel[(groups, batch)](
        moments,
        shift,
        statistics,
        pixels,
        plan.steps * plan.block_pixels,
        plan.chunks,
        channels,
        channels // groups,
        max(1, (_MANY_MOMENTS if many else _FEW_MOMENTS) // block_group),
        block_group,
        shift is not None,
        num_warps=8 if many else 4,
    )
    return statistics


def group_normalize(
    x: Tensor,
    statistics: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    shift: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """Launch; see `pipelines.kernels.group_normalize`."""
    channels, pixels, plan = _cut(x)
    batch = x.shape[0]
    groups = statistics.shape[1]
    y = torch.empty_like(x)
    normalize_kernel[(plan.chunks * plan.columns, batch)](
        x,
        y,
        statistics,
        weight,
        bias,
        shift,
        pixels,
        channels,
        plan.steps,
        2 * groups if statistics.shape[0] > 1 else 0,
        channels // groups,
        eps,
        plan.block_pixels,
        plan.block_channels,
        shift is not None,
        silu,
    )
    return y
