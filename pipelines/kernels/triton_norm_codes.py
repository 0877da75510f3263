"""GroupNorm, SiLU and the codes of the result in Triton: the normalised map is never written."""

from __future__ import annotations

# mypy: disable-error-code="import-untyped, untyped-decorator"
# ruff: noqa: N803
import torch
import triton
import triton.language as tl

from pipelines.kernels.blocks import plan_blocks
from pipelines.kernels.static_int8 import OFFSET
from pipelines.kernels.triton_codes import read_quantizer, stored_codes
from pipelines.kernels.triton_norm import channel_terms, group_statistics, normalized
from pipelines.kernels.triton_small_norm import group_in_registers, register_blocks

Tensor = torch.Tensor


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
    centre, factor, addend = channel_terms(
        statistics, weight, bias, shift, channel, inside, statistics_stride, group_channels, eps,
        HAS_SHIFT,
    )  # fmt: skip
    multiplier, offset, zero = read_quantizer(quantizer, channel, channels, inside)
    first = chunk * steps * BLOCK_PIXELS
    row = tl.arange(0, BLOCK_PIXELS)
    start = (sample * pixels + first) * channels
    offsets = row[:, None] * channels + channel[None, :]
    for step in range(steps):
        valid = (first + step * BLOCK_PIXELS + row < pixels)[:, None] & inside[None, :]
        value = tl.load(x + start + offsets, mask=valid, other=0.0).to(tl.float32)
        value = normalized(value, centre, factor, addend, SILU)
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
    """One small group of one sample."""
    value, start, offsets, valid, channel, inside = group_in_registers(
        x, weight, bias, shift, pixels, channels, eps, BLOCK_PIXELS, GROUP, BLOCK_GROUP, HAS_SHIFT,
        SILU,
    )  # fmt: skip
    multiplier, offset, zero = read_quantizer(quantizer, channel, channels, inside)
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
    blocks = register_blocks(height * width, group_channels)
    if blocks is None:
        statistics = group_statistics(x, groups, shift)
        return group_normalize_quantize(
            x, statistics, weight, bias, eps, shift, silu, quantizer, levels
        )
    y = torch.empty_like(x, dtype=torch.int8)
    group_codes_kernel[(groups, batch)](
        x, y, weight, bias, shift, quantizer, height * width, channels, eps, levels, OFFSET,
        blocks[0], group_channels, blocks[1], shift is not None, silu, num_warps=8,
        enable_fp_fusion=False,
    )  # fmt: skip
    return y
