"""How long a planned run will take, from what is known of earlier ones."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from srbench.errors import UsageError
from srbench.plan import Plan, estimate_seconds
from srbench.profiles import Profile
from srbench.stats.runs import latencies_ms
from srbench.store import list_runs, read_run

START_S = 10.0
"""Imports and loading of a worker where no run has told better."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """Expected duration.

    Attributes:
        seconds: None when nothing is known of some cell.
        source: Where the times come from, in words.
    """

    seconds: float | None
    source: str


def forecast(
    plan: Plan,
    profile: Profile,
    results: Path,
    predicted: Mapping[tuple[str, str], float] | None = None,
) -> Forecast:
    """Expected duration from what knows all cells best.

    That is the newest run, else predictions, else published times.

    Args:
        plan: Of the run to come.
        profile: Where it is measured.
        results: Folder of earlier runs.
        predicted: (case, arm) -> predicted seconds an image.
    """
    for path in reversed(list_runs(results)):
        if path.parent.name != profile.name:
            continue
        try:
            run = read_run(path)
        except UsageError:  # damaged, or of a newer srbench: no help for a guess
            continue
        times = {
            (case, arm): statistics.median(latencies) / 1000
            for case in plan.cases
            for arm in plan.arms
            if (latencies := latencies_ms(run, case, arm))
        }
        load_s = START_S + statistics.median([c.load_ms or 0 for c in run.cells] or [0]) / 1000
        seconds = estimate_seconds(plan, times, load_s)
        if seconds is not None:
            return Forecast(seconds, f"times of {run.head.run_id}")
    seconds = estimate_seconds(plan, predicted or {}, START_S)
    if seconds is not None:
        return Forecast(seconds, "predicted times, nothing was measured yet")
    published = {
        (case, arm): seconds for case, seconds in profile.original_s.items() for arm in plan.arms
    }
    seconds = estimate_seconds(plan, published, START_S)
    if seconds is not None:
        return Forecast(seconds, "the original's published times, an upper bound")
    return Forecast(None, "no run and no published times on this device yet")
