"""GroupNorm, SiLU and the codes of the result in Triton: the normalised map is never written."""

from __future__ import annotations

# mypy: disable-error-code="import-untyped, untyped-decorator"
# ruff: noqa: N803
import torch
import triton
import triton.language as tl

from pipelines.kernels.blocks import plan_blocks, power_of_two
from pipelines.kernels.static_int8 import OFFSET
from pipelines.kernels.triton_codes import stored_codes
from pipelines.kernels.triton_norm import group_statistics

Tensor = torch.Tensor

_REGISTER_ENTRIES = 16384
"""Elements of a group, padded to powers of two, that eight warps hold: 64 a thread."""


@triton.jit(do_not_specialize=["pixels", "steps", "statistics_stride", "group_channels", "levels"])
def normalize_codes_kernel(
    x: tl.tensor,
    y: tl.tensor,
    statistics: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    shift: tl.tensor,
    quantizer: tl.tensor,
    pixels: tl.tensor,
    channels: tl.tensor,
    steps: tl.tensor,
    statistics_stride: tl.tensor,
    group_channels: tl.tensor,
    eps: tl.tensor,
    levels: tl.tensor,
    OFFSET: tl.constexpr,
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
    moments = statistics + sample * statistics_stride + (channel // group_channels) * 2
    centre = tl.load(moments, mask=inside, other=0.0)
    variance = tl.load(moments + 1, mask=inside, other=0.0)
    if HAS_SHIFT:
        centre -= tl.load(shift + channel, mask=inside, other=0.0).to(tl.float32)
    factor = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    factor *= tl.rsqrt(variance + eps)
    addend = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    multiplier = tl.load(quantizer + channel, mask=inside, other=0.0)[None, :]
    offset = tl.load(quantizer + channels + channel, mask=inside, other=0.0)[None, :]
    zero = tl.load(quantizer + 2 * channels + channel, mask=inside, other=0.0)[None, :]
    first = chunk * steps * BLOCK_PIXELS
    row = tl.arange(0, BLOCK_PIXELS)
    start = (sample * pixels + first) * channels
    offsets = row[:, None] * channels + channel[None, :]
    for step in range(steps):
        valid = (first + step * BLOCK_PIXELS + row < pixels)[:, None] & inside[None, :]
        value = tl.load(x + start + offsets, mask=valid, other=0.0).to(tl.float32)
        value = (value - centre[None, :]) * factor[None, :] + addend[None, :]
        if SILU:
            value *= tl.sigmoid(value)
        code = stored_codes(value, multiplier, offset, zero, levels, OFFSET)
        tl.store(y + start + offsets, code, mask=valid)
        start += BLOCK_PIXELS * channels


@triton.jit(do_not_specialize=["pixels", "levels"])
def group_codes_kernel(
    x: tl.tensor,
    y: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    shift: tl.tensor,
    quantizer: tl.tensor,
    pixels: tl.tensor,
    channels: tl.tensor,
    eps: tl.tensor,
    levels: tl.tensor,
    OFFSET: tl.constexpr,
    BLOCK_PIXELS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    SILU: tl.constexpr,
) -> None:
    """One small group of one sample, read once: two passes over registers, then the codes."""
    member = tl.arange(0, BLOCK_GROUP)
    channel = tl.program_id(0) * GROUP + member
    pixel = tl.arange(0, BLOCK_PIXELS)
    inside = member < GROUP
    valid = (pixel < pixels)[:, None] & inside[None, :]
    start = tl.program_id(1).to(tl.int64) * pixels * channels
    offsets = pixel[:, None] * channels + channel[None, :]
    value = tl.load(x + start + offsets, mask=valid, other=0.0).to(tl.float32)
    if HAS_SHIFT:
        value += tl.load(shift + channel, mask=inside, other=0.0).to(tl.float32)[None, :]
    elements = (pixels * GROUP).to(tl.float32)
    mean = tl.sum(tl.sum(tl.where(valid, value, 0.0), axis=1), axis=0) / elements
    value -= mean
    squares = tl.where(valid, value * value, 0.0)
    variance = tl.sum(tl.sum(squares, axis=1), axis=0) / elements
    factor = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32)
    factor *= tl.rsqrt(variance + eps)
    addend = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32)
    value = value * factor[None, :] + addend[None, :]
    if SILU:
        value *= tl.sigmoid(value)
    multiplier = tl.load(quantizer + channel, mask=inside, other=0.0)[None, :]
    offset = tl.load(quantizer + channels + channel, mask=inside, other=0.0)[None, :]
    zero = tl.load(quantizer + 2 * channels + channel, mask=inside, other=0.0)[None, :]
    code = stored_codes(value, multiplier, offset, zero, levels, OFFSET)
    tl.store(y + start + offsets, code, mask=valid)


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
    """Launch; see `pipelines.kernels.static_int8.group_normalize_quantize`."""
    batch, channels, height, width = x.shape
    pixels, groups = height * width, statistics.shape[1]
    plan = plan_blocks(batch, channels, pixels)
    y = torch.empty_like(x, dtype=torch.int8)
    normalize_codes_kernel[(plan.chunks * plan.columns, batch)](
        x, y, statistics, weight, bias, shift, quantizer, pixels, channels, plan.steps,
        2 * groups if statistics.shape[0] > 1 else 0, channels // groups, eps, levels, OFFSET,
        plan.block_pixels, plan.block_channels, shift is not None, silu, enable_fp_fusion=False,
    )  # fmt: skip
    return y


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
    """Launch; see `pipelines.kernels.static_int8.group_norm_quantize`."""
    batch, channels, height, width = x.shape
    group_channels = channels // groups
    block_pixels, block_group = power_of_two(height * width), power_of_two(group_channels)
    if block_pixels * block_group > _REGISTER_ENTRIES:
        statistics = group_statistics(x, groups, shift)
        return group_normalize_quantize(
            x, statistics, weight, bias, eps, shift, silu, quantizer, levels
        )
    y = torch.empty_like(x, dtype=torch.int8)
    group_codes_kernel[(groups, batch)](
        x, y, weight, bias, shift, quantizer, height * width, channels, eps, levels, OFFSET,
        block_pixels, group_channels, block_group, shift is not None, silu, num_warps=8,
        enable_fp_fusion=False,
    )  # fmt: skip
    return y
