"""What the checks on time share: per-block log ratios, their geometric mean, numbers as words."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp

from srbench.records import Run
from srbench.stats.effects import Effect
from srbench.stats.runs import block_log_ratios
from srbench.stats.speedup import geometric_mean_blocks

GEOMEAN = "geomean"


def measured_ratios(run: Run, candidate: str, cases: list[str]) -> dict[str, dict[int, float]]:
    """Case -> block -> d, over the cases that have any."""
    found = {case: block_log_ratios(run, case, candidate) for case in cases}
    return {case: ratios for case, ratios in found.items() if ratios}


def geomean_blocks(cells: Mapping[str, Mapping[int, float]]) -> list[float]:
    """Block means over cells; with a single cell the mean would only repeat it."""
    return geometric_mean_blocks(list(cells.values())) if len(cells) > 1 else []


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
