"""The wavelet colour fix's five blurs composed into one banded operator an axis.

Level k blurs with [1 2 1] / 4 at distance 2^k. Inside, the product of all (1 + z^(2^k))^2 is
((1 - z^32) / (1 - z))^2: a triangle of 63 taps, 1 2 .. 32 .. 2 1, over 1024. Within 31 positions of
a border the taps differ, because every level pads its own input by replication. Since only these
rows differ, a few dense blocks serve every length.
"""

from __future__ import annotations

from functools import cache

import torch

LEVELS = 5
REACH = 2**LEVELS - 1
"""Distance to the farthest tap."""
DENOMINATOR = 4**LEVELS
BLOCK = 64
MARGIN = REACH + 1
WINDOW = BLOCK + 2 * MARGIN
"""Inputs of a block of results, rounded up to a power of two."""


def numerators(length: int) -> torch.Tensor:
    """The composed operator on an axis of `length`: [length, length], int64, over DENOMINATOR."""
    position = torch.arange(length)
    composed = torch.eye(length, dtype=torch.int64)
    for level in range(LEVELS):
        before = (position - 2**level).clamp_min(0)
        after = (position + 2**level).clamp_max(length - 1)
        composed = composed[before] + 2 * composed + composed[after]
    return composed


@cache
def _blocks_of(length: int, device: torch.device) -> torch.Tensor:
    dense = numerators(length)
    blocks = -(-length // BLOCK)
    padded = torch.zeros(BLOCK * blocks, BLOCK * (blocks + 1), dtype=torch.float16)
    padded[:length, MARGIN : MARGIN + length] = dense
    cut = (padded[b : b + BLOCK, b : b + WINDOW] for b in range(0, BLOCK * blocks, BLOCK))
    return torch.stack(tuple(cut)).to(device)


def tap_blocks(length: int, device: torch.device) -> tuple[torch.Tensor, int]:
    """The operator on an axis of `length` in dense blocks, on `device`.

    Block b holds the numerators of results [64 b, 64 b + 64) on the inputs from 64 b - 32 on,
    integers of at most 1024, which float16 holds exactly. All blocks between the second and the
    last but one are equal, so at most four are kept, and lengths share them.

    Returns:
        [n, 64, 128] float16, and the number m of equal blocks left out: block b of the axis is
        entry b where b < 2, else max(b - m, 1).
    """
    left_out = max(0, -(-length // BLOCK) - 4)
    return _blocks_of(length - BLOCK * left_out, device), left_out
