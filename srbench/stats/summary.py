"""Robust description of one arm's samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from statistics import median

__all__ = ["Summary", "mad", "median", "quantile", "summarize"]


@dataclass(frozen=True, slots=True)
class Summary:
    """Median, spread and tail of one arm, in the unit of its samples.

    Attributes:
        median: Middle value.
        mad: Median absolute deviation from the median, not scaled to a standard deviation.
        p90: 90th percentile.
        n: Number of samples.
    """

    median: float
    mad: float
    p90: float
    n: int


def mad(values: Sequence[float]) -> float:
    """Median absolute deviation from the median; raises `StatisticsError` on no values."""
    center = median(values)
    return median(abs(value - center) for value in values)


def quantile(values: Sequence[float], q: float) -> float:
    """The q-quantile (0 to 1) by linear interpolation.

    Numpy's default, type 7 of Hyndman and Fan, "Sample quantiles in statistical packages", 1996.
    """
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    below = floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


def summarize(values: Sequence[float]) -> Summary | None:
    """Describe the samples of one arm; None when there are none."""
    if not values:
        return None
    return Summary(median(values), mad(values), quantile(values, 0.9), len(values))
