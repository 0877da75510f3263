"""How NHWC feature maps are cut into blocks, by shape alone."""

from __future__ import annotations

from dataclasses import dataclass

_ELEMENTS = 4096
"""Of a block: 32 a thread with four warps, enough loads in flight and no spilled registers."""
_WIDEST = 128
_PROGRAMS = 4096
"""Aimed at: six waves or more of the largest cards, so that the last one costs little."""
_MOST_STEPS = 32


def ceil_div(value: int, divisor: int) -> int:
    """Value / divisor, rounded up."""
    return -(-value // divisor)


def power_of_two(value: int) -> int:
    """Smallest power of two that is not below `value`."""
    return 1 << (value - 1).bit_length()


@dataclass(frozen=True, slots=True)
class BlockPlan:
    """Blocks of one feature map.

    Attributes:
        block_pixels: Pixels of a block, a power of two.
        block_channels: Channels of a block, a power of two; consecutive, so rows of at least 128
            bytes are read at the widths of the full-size networks.
        steps: Blocks that one program walks through, one below the other.
        chunks: Programs along the pixels of a sample.
        columns: Programs along the channels.
    """

    block_pixels: int
    block_channels: int
    steps: int
    chunks: int
    columns: int


def plan_blocks(batch: int, channels: int, pixels: int) -> BlockPlan:
    """Cut [batch, pixels, channels]."""
    block_channels = next(
        (width for width in (_WIDEST, 64) if channels % width == 0),
        min(_WIDEST, power_of_two(channels)),
    )
    block_pixels = _ELEMENTS // block_channels
    columns = ceil_div(channels, block_channels)
    blocks = ceil_div(pixels, block_pixels)
    steps = min(_MOST_STEPS, max(1, batch * blocks * columns // _PROGRAMS))
    return BlockPlan(block_pixels, block_channels, steps, ceil_div(blocks, steps), columns)
