"""From paired times to a speed-up with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import fmean, median

from srbench.stats.effects import one_sample


@dataclass(frozen=True, slots=True)
class Speedup:
    """How many times faster the candidate is; above 1 is faster.

    Attributes:
        value: exp(-mean over blocks of d).
        low: Lower end of the 95 % interval; None with one block.
        high: Upper end of the 95 % interval; None with one block.
        blocks: Number of blocks behind it.
    """

    value: float
    low: float | None
    high: float | None
    blocks: int


def paired_log_ratio(
    baseline_ms: Mapping[int, float], candidate_ms: Mapping[int, float]
) -> float | None:
    """Give d of one block and cell, the median over pairs of ln(t_candidate / t_baseline).

    Args:
        baseline_ms: Pair index -> time of the baseline, > 0.
        candidate_ms: Pair index -> time of the candidate, > 0.

    Returns:
        The median log ratio over pairs that both arms have; None when they share none.
    """
    shared = baseline_ms.keys() & candidate_ms.keys()
    if not shared:
        return None
    return median(log(candidate_ms[pair] / baseline_ms[pair]) for pair in shared)


def speedup(block_log_ratios: Sequence[float], confidence: float = 0.95) -> Speedup | None:
    """Speed-up of one cell from its per-block d; None when there is no block."""
    if not block_log_ratios:
        return None
    effect = one_sample(block_log_ratios)
    interval = effect.interval(confidence)
    low, high = (None, None) if interval is None else (exp(-interval[1]), exp(-interval[0]))
    return Speedup(exp(-effect.estimate), low, high, effect.blocks)


def geometric_mean_blocks(cells: Sequence[Mapping[int, float]]) -> list[float]:
    """Per-block mean of d over cells, in block order, over the blocks that every cell has.

    exp(-mean) of these is the geometric mean speed-up (Fleming and Wallace, "How not to lie with
    statistics", CACM 1986). Cells of one block share its processes and are correlated, so the
    interval must come from block means, not from the cells' own intervals.
    """
    if not cells:
        return []
    shared = set.intersection(*(set(cell) for cell in cells))
    return [fmean(cell[block] for cell in cells) for block in sorted(shared)]
