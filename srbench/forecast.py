"""What a planned run will take: work counted on the meta device, time from what is known."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from srbench.cases import Case
from srbench.errors import InfrastructureError, UsageError
from srbench.outcome import Failure, Outcome
from srbench.plan import Plan, estimate_seconds
from srbench.profiles import Profile
from srbench.protocol import Counted, CountWork, Describe
from srbench.stats.runs import latencies_ms
from srbench.store import list_runs, read_run
from srbench.worker_process import WorkerProcess

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


def count_work(
    arms: Sequence[str],
    assignments: dict[str, dict[str, str]],
    cases: Sequence[Case],
    timeout_s: float,
) -> dict[tuple[str, str], dict[str, int]]:
    """FLOPs by stage of one image of the full-size architecture, each arm in a worker of its own.

    Returns:
        (case, arm) -> stage -> FLOPs.

    Raises:
        UsageError: An arm, option or size is refused.
        InfrastructureError: A worker broke.
    """
    counts: dict[tuple[str, str], dict[str, int]] = {}
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="srbench-")))
        workers = {}
        for number, arm in enumerate(arms):
            worker = workers[arm] = WorkerProcess(folder / f"{number}.log")
            stack.callback(worker.kill)
            worker.send(Describe(pipeline=arm, assignments=assignments))
        for arm, worker in workers.items():
            _answer(worker, arm, timeout_s)
        for case in cases:
            for worker in workers.values():
                worker.send(CountWork(width=case.width, height=case.height, scale=case.scale))
            for arm, worker in workers.items():
                reply = _answer(worker, arm, timeout_s)
                assert isinstance(reply, Counted)
                counts[case.name, arm] = reply.flops
    return counts


def _answer(worker: WorkerProcess, arm: str, timeout_s: float) -> object:
    reply = worker.receive(timeout_s)
    if isinstance(reply, Failure):
        if reply.outcome is Outcome.UNSUPPORTED:
            raise UsageError(reply.reason)
        raise InfrastructureError(f"{arm}: counting its work: {reply.outcome}: {reply.reason}")
    return reply


def forecast(plan: Plan, profile: Profile, results: Path) -> Forecast:
    """Expected duration from the newest run that knows all cells, else from published times."""
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
    published = {
        (case, arm): seconds for case, seconds in profile.original_s.items() for arm in plan.arms
    }
    seconds = estimate_seconds(plan, published, START_S)
    if seconds is not None:
        return Forecast(seconds, "the original's published times, an upper bound")
    return Forecast(None, "no run and no published times on this device yet")
