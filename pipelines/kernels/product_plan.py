"""How an int8 product [M, K] x [N, K] is cut into blocks, by shape alone."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.kernels.blocks import ceil_div, power_of_two

_PROGRAMS = 128
"""Aimed at: one for each multiprocessor of the largest cards (A10 72, L20 92, H100 132)."""
_WIDE, _NARROW = 128, 64
_LEAST_STEPS = 8
"""Blocks of K that a program must keep for a split to earn its second launch."""
_SMALLEST = 16


@dataclass(frozen=True, slots=True)
class ProductPlan:
    """Blocks of one product.

    Attributes:
        block_m: Rows of a block.
        block_n: Columns of a block.
        block_k: Bytes of K that are loaded at a time.
        steps: Of K; with taps, of one tap after the other.
        splits: Programs that share the steps of one block; their partial sums are added by a second
            kernel, in integers, so that the order does not matter.
        warps: Of a program.
        stages: Blocks of K in flight; together at most 96 KiB, which an A10 has.
    """

    block_m: int
    block_n: int
    block_k: int
    steps: int
    splits: int
    warps: int
    stages: int


def plan_product(rows: int, columns: int, depth: int, taps: int = 1) -> ProductPlan:
    """Cut a product of `rows` x `columns` with `taps` times `depth` products a result."""
    block_k = _WIDE if depth % _WIDE == 0 else min(_NARROW, max(32, power_of_two(depth)))
    # 320 columns are five narrow blocks, but two and a half wide ones.
    wasted = -columns % _WIDE
    block_n = _WIDE if wasted < _NARROW else min(_NARROW, max(_SMALLEST, power_of_two(columns)))
    across = ceil_div(columns, block_n)
    block_m = _WIDE if ceil_div(rows, _WIDE) * across >= _PROGRAMS else _NARROW
    block_m = min(block_m, max(_SMALLEST, power_of_two(rows)))
    steps = taps * ceil_div(depth, block_k)
    programs = ceil_div(rows, block_m) * across
    splits = max(1, min(ceil_div(_PROGRAMS, programs), steps // _LEAST_STEPS))
    splits = ceil_div(steps, ceil_div(steps, splits))
    large = block_m * block_n == _WIDE * _WIDE
    return ProductPlan(
        block_m=block_m,
        block_n=block_n,
        block_k=block_k,
        steps=steps,
        splits=splits,
        warps=8 if large else 4,
        stages=3 if block_k == _WIDE else 4,
    )
