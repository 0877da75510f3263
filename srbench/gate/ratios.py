"""What the checks on time share: intervals of ratios, and numbers as words."""

from __future__ import annotations

from math import exp

from srbench.stats.effects import Effect
from srbench.stats.sequential import Look


def exponentiated(
    interval: tuple[float, float] | None, sign: float = 1.0, factor: float = 1.0
) -> tuple[float, float] | None:
    """The interval of factor * exp(sign * x) from that of x, in ascending order."""
    if interval is None:
        return None
    low, high = sorted(factor * exp(sign * end) for end in interval)
    return low, high


def why_too_few(effect: Effect, look: Look) -> str:
    """The reason to add where an effect has too few blocks to be judged; empty where it has not."""
    if effect.standard_error is None:
        return ": one block has no interval"
    if effect.blocks < look.least:
        return f": {effect.blocks} blocks are measured, this look needs {look.least}"
    return ""
