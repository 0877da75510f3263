"""What the checks on time share: intervals of ratios, and numbers as words."""

from __future__ import annotations

from math import exp

from srbench.stats.effects import Effect


def exponentiated(
    interval: tuple[float, float] | None, sign: float = 1.0, factor: float = 1.0
) -> tuple[float, float] | None:
    """The interval of factor * exp(sign * x) from that of x, in ascending order."""
    if interval is None:
        return None
    low, high = sorted(factor * exp(sign * end) for end in interval)
    return low, high


def why_no_interval(effect: Effect) -> str:
    """The reason to add where an effect has no interval."""
    return ": one block has no interval" if effect.standard_error is None else ""
