"""A run from its preparation to a finished results file: what `srbench run` does, unprinted."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

from srbench import __version__
from srbench.arm import Job
from srbench.coordinator import Coordinator, Facts, Observer, utc_now
from srbench.errors import NotComparableError
from srbench.fingerprint import fingerprint
from srbench.judging import judge_run
from srbench.outcome import INFRASTRUCTURE
from srbench.plan import Plan
from srbench.preparation import Preparation
from srbench.records import CellRecord, EndRecord, FidelityRecord, Run, RunRecord
from srbench.registry import check_shared
from srbench.store import RunWriter, read_run


def begin(
    preparation: Preparation,
    out: Path,
    argv: list[str],
    observer: Observer,
    stop: Callable[[], bool],
) -> Run:
    """Measure a new run.

    Args:
        preparation: Of `prepare_run`.
        out: Results folder.
        argv: The command line, for the record.
        observer: Told how far it is.
        stop: Asked between blocks; True ends the run early.

    Returns:
        The run as stored; `ended` tells whether it is whole.
    """
    with Coordinator(preparation.job, observer) as coordinator:
        facts = coordinator.open()
        check_shared(
            preparation.job.assignments,
            (name for described in facts.described.values() for name in described.options),
        )
        head = make_head(preparation, facts, argv)
        opened = RunWriter.create(out, head)
        path = out / head.profile / f"{head.run_id}.jsonl"
        observer.note(f"measuring {head.run_id}")
        _measure(coordinator, preparation.job, opened, observer, stop, None)
    return read_run(path)


def resume(
    path: Path, preparation: Preparation, observer: Observer, stop: Callable[[], bool]
) -> Run:
    """Go on with a run that was interrupted or killed.

    Raises:
        NotComparableError: A pipeline or its options changed since.
    """
    begun = read_run(path)
    with Coordinator(preparation.job, observer) as coordinator:
        facts = coordinator.open()
        for name, described in facts.described.items():
            began_with = begun.head.versions[name], begun.head.options[name]
            if (described.version, described.options) != began_with:
                raise NotComparableError(
                    f"--resume: {name} has changed since {begun.head.run_id} was begun; "
                    "start a new run"
                )
        _measure(coordinator, preparation.job, RunWriter.resume(path), observer, stop, begun)
    return read_run(path)


def _measure(
    coordinator: Coordinator,
    job: Job,
    opened: AbstractContextManager[RunWriter],
    observer: Observer,
    stop: Callable[[], bool],
    begun: Run | None,
) -> None:
    with opened as writer:
        completed = coordinator.run(writer, begun.finished_blocks if begun else (), stop)
        if completed:
            judge_run(
                coordinator,
                job.plan,
                job.device,
                job.timeout_s,
                sink=writer,
                observer=observer,
                done={(r.case, r.pipeline) for r in begun.fidelity} if begun else (),
            )
        writer.append([EndRecord(finished_at=utc_now(), interrupted=not completed)])


def make_head(preparation: Preparation, facts: Facts, argv: list[str]) -> RunRecord:
    """The first line of a results file."""
    job, now = preparation.job, datetime.now(UTC)
    plan: Plan = job.plan
    weights = job.weights
    return RunRecord(
        run_id=f"{now:%Y%m%dT%H%M%SZ}-{preparation.profile.name}-{secrets.token_hex(2)}",
        started_at=now.isoformat(timespec="seconds"),
        srbench_version=__version__,
        profile=preparation.profile.name,
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
    )


def broken_results(run: Run) -> list[str]:
    """One short text for each cell or picture that the machine did not bring to a result."""
    records: list[CellRecord | FidelityRecord] = [*run.cells, *run.fidelity]
    return [
        f"{record.case} {record.pipeline} {record.outcome} ({record.reason})"
        for record in records
        if record.outcome in INFRASTRUCTURE
    ]
