"""A run from its preparation to a finished results file: what `srbench run` does, unprinted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from srbench.arm import Job
from srbench.coordinator import Coordinator, Observer, utc_now
from srbench.errors import NotComparableError, UsageError
from srbench.fidelity.roles import ROLES
from srbench.fingerprint import fingerprint
from srbench.heading import start_of_run
from srbench.judging import judge_run
from srbench.locks import measuring_into
from srbench.opening import Facts
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
        head = make_head(preparation, facts, argv, conduct.looking)
        nothing = _empty_run(head)
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
        head = make_head(preparation, coordinator.open(), begun.head.argv, conduct.looking)
        if change := _change(begun.head, head):
            raise NotComparableError(
                f"--resume: {begun.head.run_id} cannot go on: {change}; start a new run"
            )
        conduct.looking.check(_empty_run(head))
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
    coordinator.gallery.recall(_settled(begun).cells)
    with opened as writer:
        blocks = coordinator.run(
            writer,
            begun.finished_blocks,
            conduct.stop,
            lambda: conduct.looking.decided(_settled(read_run(writer.path))),
        )
        if blocks is not None:
            judge_run(
                coordinator,
                job,
                sink=writer,
                observer=conduct.observer,
                done={(r.case, r.pipeline, r.reference) for r in begun.fidelity},
            )
        early = blocks if blocks is not None and blocks < job.plan.blocks else None
        writer.append(
            [EndRecord(finished_at=utc_now(), interrupted=blocks is None, decided_at=early)]
        )
    return read_run(writer.path)


def _empty_run(head: RunRecord) -> Run:
    """A run of which nothing is measured yet."""
    return Run(head=head, cells=[], fidelity=[], finished_blocks=set(), ended=False)


def _settled(run: Run) -> Run:
    """The run without the cells of a block that was broken off."""
    return replace(run, cells=[cell for cell in run.cells if cell.block in run.finished_blocks])


def _change(begun: RunRecord, now: RunRecord) -> str | None:
    """What is not as it was when the run began; None when its blocks can be told from no others."""
    for name in begun.pipelines:
        if (begun.versions[name], begun.options[name]) != (now.versions[name], now.options[name]):
            return f"{name} or its options have changed"
    if (begun.tiers, begun.tf32) != (now.tiers, now.tf32):
        return "its fidelity tiers or its TF32 setting have changed"
    if begun.decided_by != now.decided_by:
        return "the policy or what --against names is another one than at its earlier looks"
    if begun.pairing != now.pairing:
        return f"its pairing was {begun.pairing}, the arms now need {now.pairing}"
    then, facts = (_facts(head.fingerprint) for head in (begun, now))
    for key in then.keys() | facts.keys():
        if then.get(key) != facts.get(key):
            return f"{key.replace('_', ' ')} was {then.get(key)}, is {facts.get(key)}"
    return None


def _facts(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint without what may change.

    That is the host's name, which a container has anew with every start, and whether the working
    tree is modified, as it is by the report of the interrupted run.
    """
    apart = ("host", "dirty", "versions")
    facts = {key: value for key, value in fingerprint.items() if key not in apart}
    return {**facts, **fingerprint["versions"]}


def make_head(
    preparation: Preparation, facts: Facts, argv: list[str], looking: Looking
) -> RunRecord:
    """The first line of a results file."""
    job = preparation.job
    plan: Plan = job.plan
    weights = job.weights
    return RunRecord(
        **start_of_run(preparation.profile),
        device=job.device,
        precision=job.precision,
        tf32=facts.tf32,
        cases=list(plan.cases),
        pipelines=list(plan.arms),
        options={name: described.options for name, described in facts.described.items()},
        versions={name: described.version for name, described in facts.described.items()},
        tiers={name: described.tiers[job.precision] for name, described in facts.described.items()},
        weights={
            "kind": weights.kind,
            "digest": weights.digest,
            "synthetic": weights.synthetic,
            "label": weights.path.name if weights.kind == "folder" else weights.kind,
        },
        inputs={
            name: {"sha256": image.sha256, "source": image.source}
            for name, image in job.inputs.items()
        },
        blocks=plan.blocks,
        pairs=plan.pairs,
        seed=plan.seed,
        noise_seed=job.noise_seed,
        fingerprint=fingerprint(preparation.gpu),
        argv=argv,
        purpose=preparation.purpose,
        arms={name: job.arm(name).to_record() for name in plan.arms},
        looks=list(plan.looks),
        against=preparation.against,
        decided_by=dict(looking.terms),
        pairing=facts.pairing,
        ladder=[arm.to_record() for arm in job.ladder],
    )


def broken_results(run: Run) -> list[str]:
    """One short text for each cell or picture that the machine did not bring to a result."""
    judged = [record for record in run.fidelity if record.reference not in ROLES]
    records: list[CellRecord | FidelityRecord] = [*run.cells, *judged]
    return [
        f"{record.case} {record.pipeline} {record.outcome} ({record.reason})"
        for record in records
        if record.outcome in INFRASTRUCTURE
    ]
