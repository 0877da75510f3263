"""The history of a run: earlier runs of the same measurement, and where their level changed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import exp, log
from pathlib import Path
from statistics import median

from srbench.errors import SrbenchError, UsageError
from srbench.gate.resources import peak_bytes
from srbench.records import Run, RunRecord
from srbench.stats.runs import block_log_ratios, candidate_arms, latencies_ms
from srbench.stats.speedup import Speedup, speedup
from srbench.stats.steps import find_segments
from srbench.store import SUFFIX, read_run

MOST_RUNS = 200
"""Runs that a history goes back: months of nightly ones, still read and drawn in seconds."""

MOST_BYTES = 512 * 2**20
"""Of their files: half a million samples, some ten seconds of reading."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One case of one arm in one run.

    Attributes:
        run_id: Of the run.
        started_at: ISO 8601, UTC.
        commit: What was measured: the arm's own commit, else that of the checkout; None if unknown.
        speedup: Over the run's own baseline.
        candidate_ms: Median time an image; None when no image was timed.
        peak_bytes: The memory number that gates; None when not measured.
    """

    run_id: str
    started_at: str
    commit: str | None
    speedup: Speedup
    candidate_ms: float | None
    peak_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What a history keeps of a run: one point a case and arm, none of its samples."""

    head: RunRecord
    ended: bool
    points: dict[tuple[str, str], Point]


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Neighbouring points of one speed-up, `start` to `end` (exclusive)."""

    start: int
    end: int
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Where a level changed.

    Attributes:
        metric: `speedup`, `candidate_ms` or `peak_bytes`.
        run_id: First run on the new level.
        started_at: Of that run.
        commit: Of that run.
        before: Old level, in the metric's unit.
        after: New level.
    """

    metric: str
    run_id: str
    started_at: str
    commit: str | None
    before: float
    after: float

    @property
    def change(self) -> float:
        """Relative change, 0.02 is two per cent up."""
        return self.after / self.before - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One case of one arm over the runs, oldest first."""

    case: str
    candidate: str
    points: list[Point]
    levels: list[Level]
    steps: list[Step]


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """All series of a run, in table order.

    Attributes:
        runs: Number of runs, the run itself included.
        series: Only those with more than one point.
    """

    runs: int
    series: list[Series]


def history(runs: Iterable[Run | Remembered], like: Run) -> History:
    """Follow every case of a run through the runs that measured the same.

    Args:
        runs: In any order; those that are not comparable, unfinished or `like` itself are ignored.
        like: The run whose history it is.
    """
    past = {
        run.head.run_id: run if isinstance(run, Remembered) else remember(run)
        for run in runs
        if run.ended and same_series(run.head, like.head)
    }
    past[like.head.run_id] = remember(like)
    by_time = sorted(past.values(), key=lambda run: (run.head.started_at, run.head.run_id))
    ordered = by_time[-MOST_RUNS:]
    found = [
        _series(ordered, like, case, arm)
        for arm in candidate_arms(like)
        for case in like.head.cases
    ]
    return History(runs=len(ordered), series=[each for each in found if each is not None])


def remember(run: Run) -> Remembered:
    """Derive the points of a run; afterwards the run itself may be forgotten."""
    points = {
        (case, arm): point
        for arm in candidate_arms(run)
        for case in run.head.cases
        if (point := _point(run, case, arm)) is not None
    }
    return Remembered(head=run.head, ended=run.ended, points=points)


def same_series(head: RunRecord, like: RunRecord) -> bool:
    """Whether a run measured the same on the same kind of machine; its commit may be another."""
    return _identity(head) == _identity(like)


def stored_runs(root: Path, like: Run, warn: Callable[[str], None]) -> list[Remembered]:
    """Read the runs under a results folder that belong to the history of `like`, oldest first.

    Only first lines are read of the others. A file that is damaged or being written is skipped, and
    so are older ones than fit into `MOST_RUNS` and `MOST_BYTES`.

    Args:
        root: Results folder.
        like: The run whose history it is.
        warn: Told of every comparable file that could not be read, and of what was too much.
    """
    folder = root / like.head.profile
    paths = [path for path in sorted(folder.glob(f"*{SUFFIX}")) if _may_belong(path, like.head)]
    runs: list[Remembered] = []
    room = MOST_BYTES
    newest = paths[-MOST_RUNS:][::-1]
    for number, path in enumerate(newest):
        try:
            room -= path.stat().st_size
            if room < 0:
                left = len(newest) - number
                warn(f"history: {left} older runs, beyond {MOST_BYTES >> 20} MiB, are left out")
                break
            runs.append(remember(read_run(path)))
        except (UsageError, OSError) as error:
            warn(f"history: {error}")
    return runs[::-1]


def _may_belong(path: Path, like: RunRecord) -> bool:
    try:
        with path.open("rb") as file:
            head = RunRecord.from_json(json.loads(file.readline()))
        return head.run_id != like.run_id and same_series(head, like)
    except (OSError, ValueError, TypeError, AttributeError, KeyError, IndexError):
        return False


def _identity(head: RunRecord) -> tuple[object, ...]:
    machine = head.fingerprint.get("cpu_model" if head.device == "cpu" else "gpu_name")
    return (
        head.purpose,
        head.profile,
        machine,
        head.precision,
        head.tf32,
        head.weights.get("digest"),
        head.pipelines,
        head.options,
    )


def _series(runs: list[Remembered], like: Run, case: str, arm: str) -> Series | None:
    pixels = _pixels(like.head, case)
    points = [
        point
        for run in runs
        if _pixels(run.head, case) == pixels
        if (point := run.points.get((case, arm))) is not None
    ]
    if len(points) < 2:
        return None
    logs = [log(point.speedup.value) for point in points]
    levels = [
        Level(start=each.start, end=each.end, value=exp(each.level)) for each in find_segments(logs)
    ]
    return Series(
        case=case, candidate=arm, points=points, levels=levels, steps=list(_steps(points))
    )


def _pixels(head: RunRecord, case: str) -> str | None:
    return head.inputs.get(case, {}).get("sha256")


def _point(run: Run, case: str, arm: str) -> Point | None:
    try:
        estimate = speedup(list(block_log_ratios(run, case, arm).values()))
    except SrbenchError:
        # A damaged earlier run leaves a gap; the page of a sound one is still worth having.
        return None
    if estimate is None:
        return None
    commit = run.head.arms.get(arm, {}).get("commit") or run.head.fingerprint.get("commit")
    times = latencies_ms(run, case, arm)
    return Point(
        run_id=run.head.run_id,
        started_at=run.head.started_at,
        commit=None if commit is None else str(commit),
        speedup=estimate,
        candidate_ms=median(times) if times else None,
        peak_bytes=peak_bytes(run, case, arm),
    )


def _steps(points: list[Point]) -> Iterator[Step]:
    """Steps of every metric, on a logarithmic scale since changes are ratios."""
    metrics: dict[str, Callable[[Point], float | None]] = {
        "speedup": lambda point: point.speedup.value,
        "candidate_ms": lambda point: point.candidate_ms,
        "peak_bytes": lambda point: point.peak_bytes,
    }
    for metric, value_of in metrics.items():
        known = [(point, value) for point in points if (value := value_of(point))]
        segments = find_segments([log(value) for _, value in known])
        for before, after in pairwise(segments):
            first, _ = known[after.start]
            yield Step(
                metric=metric,
                run_id=first.run_id,
                started_at=first.started_at,
                commit=first.commit,
                before=exp(before.level),
                after=exp(after.level),
            )
