"""Times of a stored run that belong to counted work: same card, same options, same networks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from srbench.errors import UsageError
from srbench.protocol import Counted
from srbench.records import Run
from srbench.stats.runs import cells_of, latencies_ms, stages_ms
from srbench.store import list_runs, read_run

_TIMED = ("run", "ladder")
"""Purposes whose times are of different arms on a real device."""
_SAME_WORK = 0.01
"""Counts of a real image and of the meta device differ by less (branches that need numbers)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Of one arm in one case.

    Attributes:
        latency_ms: Median of the timed images.
        stages_ms: Stage -> median.
    """

    latency_ms: float
    stages_ms: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Achieved:
    """What a run tells about counted work.

    Attributes:
        run_id: The run; None where no stored one fits.
        times: (case, arm) -> times.
        reasons: (case, arm) -> why there are none.
        synthetic: What its weights are called where they were not trained.
    """

    run_id: str | None
    times: dict[tuple[str, str], Times]
    reasons: dict[tuple[str, str], str]
    synthetic: str | None = None


def times_of(run: Run, case: str, arm: str) -> Times | None:
    """Medians over all timed images; None where none was timed."""
    latencies = latencies_ms(run, case, arm)
    if not latencies:
        return None
    stages = stages_ms(run, case, arm)
    return Times(
        latency_ms=median(latencies),
        stages_ms={name: median(times) for name, times in stages.items()},
    )


def achieved_in(
    run: Run,
    precision: str,
    counted: Mapping[tuple[str, str], Counted],
    options: Mapping[str, dict[str, Any]],
) -> Achieved:
    """Times of a run for what was counted.

    Args:
        run: The run.
        precision: That the run must have.
        counted: (case, arm) -> work.
        options: Arm -> all options that its work was counted with.
    """
    times: dict[tuple[str, str], Times] = {}
    reasons: dict[tuple[str, str], str] = {}
    for (case, arm), work in counted.items():
        reason = _misfit(run, precision, case, arm, work, options[arm])
        found = None if reason else times_of(run, case, arm)
        if found is None:
            reasons[case, arm] = reason or f"no image of it was timed in {run.head.run_id}"
        else:
            times[case, arm] = found
    weights = run.head.weights
    synthetic = str(weights.get("label", "unknown")) if weights.get("synthetic") else None
    return Achieved(run_id=run.head.run_id, times=times, reasons=reasons, synthetic=synthetic)


def _misfit(
    run: Run, precision: str, case: str, arm: str, work: Counted, options: dict[str, Any]
) -> str | None:
    """Why a run's times are not those of this work."""
    name = run.head.run_id
    if run.head.precision != precision:
        return f"run {name} is {run.head.precision}, this is {precision}"
    if case not in run.head.cases or arm not in run.head.pipelines:
        return f"not in {name}"
    if run.head.options.get(arm) != options:
        return f"{name} measured other options"
    recorded = [sum(cell.work.get("flops", {}).values()) for cell in cells_of(run, case, arm)]
    wanted = sum(work.flops.values())
    if any(abs(flops - wanted) > _SAME_WORK * wanted for flops in recorded if flops):
        return f"{name} measured other networks ({run.head.weights.get('label', 'unknown')})"
    return None


def newest_achieved(
    runs: Iterable[Run],
    precision: str,
    counted: Mapping[tuple[str, str], Counted],
    options: Mapping[str, dict[str, Any]],
) -> Achieved:
    """The newest run that times anything of what was counted.

    Args:
        runs: Of the profile, newest first.
        precision: That the run must have.
        counted: (case, arm) -> work.
        options: Arm -> all options that its work was counted with.
    """
    reasons = dict.fromkeys(counted, "no run is stored")
    for number, run in enumerate(runs):
        found = achieved_in(run, precision, counted, options)
        if found.times:
            return found
        if number == 0:
            reasons = found.reasons
    return Achieved(run_id=None, times={}, reasons=reasons)


def timed_runs(root: Path, profile: str, note: Callable[[str], None]) -> list[Run]:
    """Runs of a profile that compare arms on a real device, newest first.

    Args:
        root: Results folder.
        profile: Name.
        note: Told of files that cannot be read.
    """
    runs = []
    for path in reversed(list_runs(root)):
        if path.parent.name != profile:
            continue
        try:
            run = read_run(path)
        except UsageError as error:
            note(f"left out: {error}")
            continue
        if run.head.purpose in _TIMED:
            runs.append(run)
    return runs
