"""Steps in a history of runs: where the level changed, and from what to what.

The history is fitted by a piecewise constant function that minimises the L1 Potts functional:
the absolute deviations plus a price for every step, solved exactly by dynamic programming
(Weinmann, Storath and Demaret, "The L1-Potts functional for robust jump-sparse reconstruction",
SIAM J. Numer. Anal. 53, 2015).
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import inf, log, sqrt
from statistics import fmean, median

SHORTEST = 3
"""Runs in a segment at least: the median of three ignores one outlier, so a lone one is no step."""

PRICE = 2.5
"""Price of a step in noise standard deviations, times ln(n) as in the Bayesian information
criterion. White noise then shows a step in 4 % of histories of 10 runs, 2 % of 20, under 1 % from
50 on; a step of three standard deviations with ten runs on either side is found in over 90 %."""


@dataclass(frozen=True, slots=True)
class Segment:
    """Runs of one level.

    Attributes:
        start: Index of its first run.
        end: Index after its last run.
        level: Median of its values, in their unit.
    """

    start: int
    end: int
    level: float


def find_segments(values: Sequence[float]) -> list[Segment]:
    """Split a history where its level changes; the result depends on the values alone.

    Args:
        values: One number a run in order of time, e.g. the log of a speed-up.

    Returns:
        Segments that cover the history in order; a step lies between each two. Empty for no runs.
    """
    if not values:
        return []
    count = len(values)
    price = PRICE * _noise(values) * log(count)
    best = [0.0] + [inf] * count
    begins = [0] * (count + 1)
    for end in range(1, count + 1):
        for start, cost in _costs_ending_at(values, end):
            # A whole history shorter than a segment is still one.
            if end - start < SHORTEST and start > 0:
                continue
            total = best[start] + cost + (price if start > 0 else 0.0)
            if _may_end(end, count) and total <= best[end]:
                best[end], begins[end] = total, start
    return _segments(values, begins)


def _may_end(end: int, count: int) -> bool:
    return end >= SHORTEST or end == count


def _costs_ending_at(values: Sequence[float], end: int) -> Iterator[tuple[int, float]]:
    """Start -> sum of absolute deviations from the median of values[start:end], latest start first.

    A value that joins a sorted sample adds its distance from the sample's median, or from the
    nearer middle value.
    """
    ordered: list[float] = []
    cost = 0.0
    for start in range(end - 1, -1, -1):
        value = values[start]
        if ordered:
            low, high = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
            cost += max(low - value, value - high, 0.0)
        insort(ordered, value)
        yield start, cost


def _noise(values: Sequence[float]) -> float:
    """Standard deviation about the steps, from differences of neighbours, which few steps touch.

    Zero differences in the majority (a counter, a rounded metric) leave the mean to speak.
    """
    steps = [abs(b - a) for a, b in pairwise(values)]
    if not steps:
        return 0.0
    return 1.4826 * median(steps) / sqrt(2) or fmean(steps)


def _segments(values: Sequence[float], begins: Sequence[int]) -> list[Segment]:
    segments: list[Segment] = []
    end = len(values)
    while end > 0:
        start = begins[end]
        segments.append(Segment(start, end, median(values[start:end])))
        end = start
    return segments[::-1]
