"""A run from its preparation to a finished results file: what `srbench run` does, unprinted."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from srbench.arm import Job
from srbench.coordinator import Coordinator, Facts, Observer, utc_now
from srbench.errors import NotComparableError
from srbench.fidelity.roles import ROLES
from srbench.fingerprint import fingerprint
from srbench.heading import start_of_run
from srbench.judging import judge_run
from srbench.outcome import INFRASTRUCTURE
from srbench.plan import Plan
from srbench.preparation import Preparation
from srbench.records import CellRecord, EndRecord, FidelityRecord, Run, RunRecord
from srbench.registry import check_shared
from srbench.store import RunWriter, measuring_into, read_run


@dataclass(frozen=True, slots=True)
class Conduct:
    """How a run is led.

    Attributes:
        observer: Told how far it is.
        stop: Asked between blocks; True ends the run early, unfinished.
        decided: Asked at the looks of a sequential plan whether the run so far is enough.
    """

    observer: Observer
    stop: Callable[[], bool] = lambda: False
    decided: Callable[[Run], bool] = lambda run: False


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
        head = make_head(preparation, facts, argv)
        path = out / head.profile / f"{head.run_id}.jsonl"
        conduct.observer.note(f"measuring {head.run_id}")
        _measure(coordinator, job, RunWriter.create(out, head), path, conduct, None)
    return read_run(path)


def resume(path: Path, preparation: Preparation, conduct: Conduct) -> Run:
    """Go on with a run that was interrupted or killed.

    Raises:
        NotComparableError: A pipeline or its options changed since.
        UsageError: Another run is measuring into the same folder.
    """
    begun = read_run(path)
    with (
        measuring_into(path.parent),
        Coordinator(preparation.job, conduct.observer) as coordinator,
    ):
        facts = coordinator.open()
        for name, described in facts.described.items():
            began_with = begun.head.versions[name], begun.head.options[name]
            if (described.version, described.options) != began_with:
                raise NotComparableError(
                    f"--resume: {name} has changed since {begun.head.run_id} was begun; "
                    "start a new run"
                )
        _measure(coordinator, preparation.job, RunWriter.resume(path), path, conduct, begun)
    return read_run(path)


def _measure(
    coordinator: Coordinator,
    job: Job,
    opened: AbstractContextManager[RunWriter],
    path: Path,
    conduct: Conduct,
    begun: Run | None,
) -> None:
    with opened as writer:
        blocks = coordinator.run(
            writer,
            begun.finished_blocks if begun else (),
            conduct.stop,
            lambda: conduct.decided(read_run(path)),
        )
        if blocks is not None:
            judge_run(
                coordinator,
                job,
                sink=writer,
                observer=conduct.observer,
                done={(r.case, r.pipeline, r.reference) for r in begun.fidelity} if begun else (),
            )
        early = blocks if blocks is not None and blocks < job.plan.blocks else None
        writer.append(
            [EndRecord(finished_at=utc_now(), interrupted=blocks is None, decided_at=early)]
        )


def make_head(preparation: Preparation, facts: Facts, argv: list[str]) -> RunRecord:
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
        pairing=facts.pairing,
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
