"""A run from its preparation to a finished results file: what `srbench run` does, unprinted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from srbench.arm import Job
from srbench.continuing import change
from srbench.coordinator import Coordinator, Observer, utc_now
from srbench.errors import NotComparableError, UsageError
from srbench.fidelity.roles import ROLES
from srbench.heading import make_head
from srbench.judging import judge_run
from srbench.locks import measuring_into
from srbench.outcome import INFRASTRUCTURE
from srbench.plan import Plan
from srbench.preparation import Preparation
from srbench.records import CellRecord, EndRecord, FidelityRecord, Run, RunRecord
from srbench.registry import check_shared
from srbench.store import RunWriter, read_run


@dataclass(frozen=True, slots=True)
class Looking:
    """What is asked of a sequential run; by default it goes on to its last block.

    Attributes:
        check: Told the run without its cells before the first block; raises where a look could
            never find an answer.
        decided: Asked at each look, of the finished blocks, whether they are enough.
        terms: What the answer depends on beside the run, for the record.
    """

    check: Callable[[Run], None] = lambda run: None
    decided: Callable[[Run], bool] = lambda run: False
    terms: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a run is led.

    Attributes:
        observer: Told how far it is.
        stop: Asked between blocks; True ends the run early, unfinished.
        looking: At a sequential run.
    """

    observer: Observer
    stop: Callable[[], bool] = lambda: False
    looking: Looking = field(default_factory=Looking)


def begin(preparation: Preparation, out: Path, argv: list[str], conduct: Conduct) -> Run:
    """Measure a new run.

    Args:
        preparation: Of `prepare_run`.
        out: Results folder.
        argv: The command line, for the record.
        conduct: Who is told and asked.

    Returns:
        The run as stored; `ended` tells whether it is whole.

    Raises:
        UsageError: Another run is measuring into the same folder.
    """
    job = preparation.job
    with (
        measuring_into(out / preparation.profile.name),
        Coordinator(job, conduct.observer) as coordinator,
    ):
        facts = coordinator.open()
        check_shared(
            job.assignments,
            (name for described in facts.described.values() for name in described.options),
        )
        head = make_head(preparation, facts, argv, conduct.looking.terms)
        nothing = empty_run(head)
        conduct.looking.check(nothing)
        conduct.observer.note(f"measuring {head.run_id}")
        return _measure(coordinator, job, RunWriter.create(out, head), conduct, nothing)


def resume(path: Path, preparation: Preparation, conduct: Conduct) -> Run:
    """Go on with a run that was interrupted or killed.

    Raises:
        NotComparableError: A pipeline, the machine, its packages or the code changed since.
        UsageError: Another run is measuring into the same folder, or has just finished this one.
    """
    with (
        measuring_into(path.parent),
        Coordinator(preparation.job, conduct.observer) as coordinator,
    ):
        # Not earlier: whoever had the folder until now may have gone on with this very run.
        begun = read_run(path)
        if begun.ended:
            raise UsageError(f"--resume: {begun.head.run_id} is finished by now")
        terms = conduct.looking.terms
        head = make_head(preparation, coordinator.open(), begun.head.argv, terms)
        if why := change(begun.head, head):
            raise NotComparableError(
                f"--resume: {begun.head.run_id} cannot go on: {why}; start a new run"
            )
        conduct.looking.check(empty_run(head))
        if head.fingerprint["dirty"]:
            conduct.observer.note(
                "the working tree is modified: pipelines of your own that lie in "
                "it must be what they were when the run began"
            )
        return _measure(coordinator, preparation.job, RunWriter.resume(path), conduct, begun)


def _measure(
    coordinator: Coordinator,
    job: Job,
    opened: AbstractContextManager[RunWriter],
    conduct: Conduct,
    begun: Run,
) -> Run:
    """Measure and judge what a run does not have yet; returns it as stored."""
    coordinator.gallery.recall(settled(begun).cells)
    with opened as writer:
        blocks = coordinator.run(
            writer,
            begun.finished_blocks,
            conduct.stop,
            lambda: conduct.looking.decided(settled(read_run(writer.path))),
        )

        def judge() -> None:
            judge_run(
                coordinator,
                job,
                sink=writer,
                observer=conduct.observer,
                done=judged(begun),
            )

        return conclude(writer, job.plan, blocks, judge)


def conclude(writer: RunWriter, plan: Plan, blocks: int | None, judge: Callable[[], object]) -> Run:
    """Judge the pictures of a run that was measured and write its last line; returns it as stored.

    Args:
        writer: Of its file.
        plan: Of it.
        blocks: How many it has; None where it was stopped, then nothing is judged yet.
        judge: Stores what is found of its pictures.
    """
    if blocks is not None:
        judge()
    early = blocks if blocks is not None and blocks < plan.blocks else None
    writer.append([EndRecord(finished_at=utc_now(), interrupted=blocks is None, decided_at=early)])
    return read_run(writer.path)


def judged(run: Run) -> set[tuple[str, str, str]]:
    """Case, arm and reference of the pictures that need not be compared again."""
    return {(record.case, record.pipeline, record.reference) for record in run.fidelity}


def empty_run(head: RunRecord) -> Run:
    """A run of which nothing is measured yet."""
    return Run(head=head, cells=[], fidelity=[], finished_blocks=set(), ended=False)


def settled(run: Run) -> Run:
    """The run without the cells of a block that was broken off."""
    return replace(run, cells=[cell for cell in run.cells if cell.block in run.finished_blocks])


def broken_results(run: Run) -> list[str]:
    """One short text for each cell or picture that the machine did not bring to a result."""
    judged = [record for record in run.fidelity if record.reference not in ROLES]
    records: list[CellRecord | FidelityRecord] = [*run.cells, *judged]
    return [
        f"{record.case} {record.pipeline} {record.outcome} ({record.reason})"
        for record in records
        if record.outcome in INFRASTRUCTURE
    ]
