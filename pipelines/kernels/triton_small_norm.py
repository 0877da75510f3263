"""GroupNorm of small feature maps in Triton: a group that fits in registers takes one launch.

The lower levels of the UNet are bound by launches, not by bytes.
"""

from __future__ import annotations

# mypy: disable-error-code="import-untyped, untyped-decorator"
# ruff: noqa: N803
import torch
import triton
import triton.language as tl

from pipelines.kernels.blocks import power_of_two
from pipelines.kernels.triton_norm import group_normalize, group_statistics

Tensor = torch.Tensor

_REGISTER_ENTRIES = 16384
"""Elements of a group, padded to powers of two, that eight warps hold: 64 a thread."""


@triton.jit
def group_in_registers(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    shift: tl.tensor,
    pixels: tl.tensor,
    channels: tl.tensor,
    eps: tl.tensor,
    BLOCK_PIXELS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    SILU: tl.constexpr,
) -> tuple[tl.tensor, ...]:
    """One small group of one sample, read once: two passes over registers.

    Returns:
        The result [pixels, group] in float32; where its sample begins in the map, offsets of the
        elements from there, and which of them there are; their channels, and which there are.
    """
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
    return value, start, offsets, valid, channel, inside


@triton.jit(do_not_specialize=["pixels"])
def group_in_registers_kernel(
    x: tl.tensor,
    y: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    shift: tl.tensor,
    pixels: tl.tensor,
    channels: tl.tensor,
    eps: tl.tensor,
    BLOCK_PIXELS: tl.constexpr,
    GROUP: tl.constexpr,
    BLOCK_GROUP: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    SILU: tl.constexpr,
) -> None:
    """One small group of one sample."""
    value, start, offsets, valid, _, _ = group_in_registers(
        x, weight, bias, shift, pixels, channels, eps, BLOCK_PIXELS, GROUP, BLOCK_GROUP, HAS_SHIFT,
        SILU,
    )  # fmt: skip
    tl.store(y + start + offsets, value.to(y.dtype.element_ty), mask=valid)


def register_blocks(pixels: int, group_channels: int) -> tuple[int, int] | None:
    """Pixels and channels of a group, padded to powers of two; None where they are too many."""
    block_pixels, block_group = power_of_two(pixels), power_of_two(group_channels)
    return (block_pixels, block_group) if block_pixels * block_group <= _REGISTER_ENTRIES else None


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    shift: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """Launch; see `pipelines.kernels.group_norm`."""
    batch, channels, height, width = x.shape
    group_channels = channels // groups
    blocks = register_blocks(height * width, group_channels)
    if blocks is None:
        statistics = group_statistics(x, groups, shift)
        return group_normalize(x, statistics, weight, bias, eps, shift, silu)
    y = torch.empty_like(x)
    group_in_registers_kernel[(groups, batch)](
        x,
        y,
        weight,
        bias,
        shift,
        height * width,
        channels,
        eps,
        blocks[0],
        group_channels,
        blocks[1],
        shift is not None,
        silu,
        num_warps=8,
    )
    return y
