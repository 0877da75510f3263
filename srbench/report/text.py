"""Numbers and outcomes as words, the same in every table."""

from __future__ import annotations

from srbench.report.model import ArmCell
from srbench.stats.speedup import Speedup

_OUTCOMES = {"oom": "OOM", "timeout": "time-out"}


def seconds(cell: ArmCell) -> str:
    """Median seconds an image to three digits, or the outcome in its place."""
    if cell.outcome != "ok" or cell.latency is None:
        return outcome(cell)
    return significant(cell.latency.median / 1000)


def outcome(cell: ArmCell) -> str:
    """`OOM`, `crash: reason`, ...: what stands where a number cannot."""
    word = outcome_word(cell.outcome)
    if cell.outcome == "ok":
        return "not measured"
    return word if cell.reason is None or word == "OOM" else f"{word}: {cell.reason}"


def outcome_word(stored: str) -> str:
    """`OOM`, `time-out`, `crash`: a stored outcome as people write it."""
    return _OUTCOMES.get(stored, stored)


def ratio(value: Speedup | None) -> str:
    """`3.21x`, or a dash."""
    return "–" if value is None else f"{value.value:.2f}x"


def interval(value: Speedup | None) -> str:
    """`3.10–3.32`; with one block it is not available."""
    if value is None:
        return "–"
    if value.low is None or value.high is None:
        return "n/a (1 block)"
    return f"{value.low:.2f}–{value.high:.2f}"


def mebibytes(count: int | None) -> str:
    """Bytes as MiB, or a dash where not measured."""
    return "–" if count is None else f"{count / 2**20:,.1f}"


def significant(value: float, digits: int = 3) -> str:
    """Plain decimal notation with at least so many significant digits."""
    if value == 0:
        return "0"
    decimals = digits - 1
    while decimals < 9 and abs(value) < 10 ** (digits - 1 - decimals):
        decimals += 1
    while decimals > 0 and abs(value) >= 10 ** (digits - decimals):
        decimals -= 1
    return f"{value:.{decimals}f}"
