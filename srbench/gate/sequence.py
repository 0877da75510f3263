"""When a sequential run ends: the gate's answers on time, under the one stop rule."""

from __future__ import annotations

from collections.abc import Iterable

from srbench.gate.checks import Check, Verdict
from srbench.stats.sequential import is_decided

TIMED = frozenset({"latency", "speedup", "time"})
"""Metrics that more blocks tell better; all others are known after the first."""


def time_is_decided(checks: Iterable[Check]) -> bool:
    """Whether the checks on time leave no reason to measure another block.

    A question that was skipped (another environment) is no answer, however many blocks follow.

    Args:
        checks: Of the judgement of the run as if it ended at this look.
    """
    return is_decided(
        str(check.verdict)
        for check in checks
        if check.metric in TIMED and check.verdict is not Verdict.SKIPPED
    )
