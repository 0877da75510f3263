"""Fidelity of the pictures of a run, computed in a worker process of its own."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Self

from srbench.arm import Arm, Job
from srbench.cases import Case
from srbench.coordinator import Coordinator, Observer, Sink
from srbench.fidelity.roles import FP32, OTHER_PROCESS, OTHER_SEED, REPEAT
from srbench.outcome import Failure, Outcome
from srbench.plan import Plan
from srbench.protocol import Alone, Judge, Judged, Paint, Painted
from srbench.records import FidelityRecord
from srbench.worker_process import WorkerProcess

Files = dict[str, str | None]


@dataclass(frozen=True, slots=True)
class Pairing:
    """What is held against what: see `srbench.records.FidelityRecord`."""

    case: str
    arm: str
    reference: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """All pictures of a case.

    Attributes:
        alone: Arm -> its solo phase.
        others: Arm -> files of what it painted in other processes, where that differs.
        exact: The baseline in float32; None where nobody asks for it.
    """

    alone: Mapping[str, Alone | Failure]
    others: Mapping[str, list[str] | Failure]
    exact: Painted | Failure | None


def pairings(plan: Plan, precision: str) -> list[Pairing]:
    """Everything to be judged in a run, in the order in which it is stored.

    Each case: every candidate against the baseline; every arm against its own repeat; the baseline
    against itself under another seed; and where the run computes in less than float32, every arm
    against the baseline in float32.
    """
    baseline, *candidates = plan.arms
    found = []
    for case in plan.cases:
        found += [Pairing(case, arm, baseline) for arm in candidates]
        found += [Pairing(case, arm, REPEAT) for arm in plan.arms]
        found.append(Pairing(case, baseline, OTHER_SEED))
        if precision != "fp32":
            found += [Pairing(case, arm, FP32) for arm in plan.arms]
    return found


def ladder_pairings(plan: Plan, precision: str) -> list[Pairing]:
    """What is judged in a ladder: the fidelity cost of each rung, and nothing that only gates ask.

    Each case: every arm against the first and against the one before; and where the run computes
    in less than float32, every arm against the first in float32.
    """
    first, *rungs = plan.arms
    found = []
    for case in plan.cases:
        found += [Pairing(case, arm, first) for arm in rungs]
        found += [Pairing(case, arm, before) for before, arm in pairwise(rungs)]
        if precision != "fp32":
            found += [Pairing(case, arm, FP32) for arm in plan.arms]
    return found


def judge_run(
    coordinator: Coordinator,
    job: Job,
    *,
    sink: Sink,
    observer: Observer,
    done: Collection[tuple[str, str, str]],
) -> list[FidelityRecord]:
    """Gather the fidelity evidence of a run and store what is found.

    Args:
        coordinator: Of the run; pictures that it does not have are made again.
        job: What its workers were told.
        sink: Takes the records.
        observer: Told what broke.
        done: (case, arm, reference) that are stored already.

    Returns:
        The new records.
    """
    asked = ladder_pairings if job.ladder else pairings
    wanted = [
        pairing
        for pairing in asked(job.plan, job.precision)
        if (pairing.case, pairing.arm, pairing.reference) not in done
    ]
    if not wanted:
        return []
    arms = job.plan.arms
    cases = list(dict.fromkeys(pairing.case for pairing in wanted))
    coordinator.paint(cases)
    alone = {case: coordinator.pictures(case) for case in cases}
    others = {
        case: {arm: coordinator.gallery.others((case, arm)) for arm in arms} for case in cases
    }
    # First, since these pictures alone cannot be made again should the run be killed.
    apart = [
        Pairing(case, arm, OTHER_PROCESS)
        for case in cases
        for arm in arms
        if others[case][arm] and (case, arm, OTHER_PROCESS) not in done
    ]
    wanted = apart + wanted
    # One network's weights at a time: the pipelines leave before the reference comes, and it leaves
    # before the metrics' networks come.
    coordinator.close_workers()
    unpainted = dict.fromkeys(p.case for p in wanted if p.reference == FP32)
    exact = _paint_exactly(coordinator, job, unpainted, observer)
    records = []
    with _Comparer(coordinator, job, observer) as comparer:
        for pairing in wanted:
            case = pairing.case
            evidence = Evidence(alone[case], others[case], exact.get(case))
            records.append(comparer.judge(pairing, evidence))
            sink.append([records[-1]])
    return records


def _paint_exactly(
    coordinator: Coordinator, job: Job, cases: Iterable[str], observer: Observer
) -> dict[str, Painted | Failure]:
    """The baseline pipeline in float32 on every case, in one worker as long as it lives."""
    painted: dict[str, Painted | Failure] = {}
    arm: Arm | None = None
    try:
        for number, name in enumerate(cases):
            if arm is None:
                in_fp32 = replace(job, precision="fp32")
                arm = Arm(job.plan.arms[0], in_fp32, coordinator.folder, observer.note)
            request = Paint(
                image=coordinator.gallery.inputs[name],
                scale=Case.parse(name).scale,
                seed=job.noise_seed,
                outputs=str(coordinator.folder / f"fp32-{number}"),
            )
            reply = _unfit(arm) or arm.ask(Painted, request)
            if isinstance(reply, Failure):
                reply = Failure(reply.outcome, f"fp32 reference: {reply.reason}")
            painted[name] = reply
    finally:
        if arm is not None:
            arm.stop()
    return painted


def _unfit(arm: Arm) -> Failure | None:
    """Why the arm is no float32 reference; None when it is one."""
    described = arm.describe()
    if isinstance(described, Failure):
        return described
    if "fp32" not in described.precisions:
        return Failure(Outcome.UNSUPPORTED, f"{arm.name} does not compute in fp32")
    if failure := arm.ready():
        return failure
    if arm.tf32:
        return Failure(Outcome.UNSUPPORTED, f"{arm.name} turns TF32 on: no fp32 reference")
    return None


def sides(pairing: Pairing, evidence: Evidence) -> tuple[list[Files], Files] | Failure:
    """Files of the references and of the arm, or why one of them has none."""
    ours = evidence.alone[pairing.arm]
    if isinstance(ours, Failure):
        return ours
    if pairing.reference == REPEAT:
        if ours.distinct_pictures is None:
            return Failure(Outcome.UNSUPPORTED, "its worker made no second picture")
        return [{"picture": ours.repeat or ours.picture}], _files(ours)
    if pairing.reference == OTHER_PROCESS:
        others = evidence.others[pairing.arm]
        if isinstance(others, Failure):
            return others
        return [{"picture": other} for other in others], _files(ours)
    if pairing.reference == OTHER_SEED:
        if ours.other_seed is None:
            return Failure(Outcome.UNSUPPORTED, "its worker made no picture under another seed")
        return [{"picture": ours.other_seed}], _files(ours)
    theirs = evidence.exact if pairing.reference == FP32 else evidence.alone[pairing.reference]
    assert theirs is not None
    return theirs if isinstance(theirs, Failure) else ([_files(theirs)], _files(ours))


def worst(records: Sequence[FidelityRecord]) -> FidelityRecord:
    """One record for several pictures: the first that came to nothing, else the lowest PSNRs."""
    if broken := next((record for record in records if record.outcome != Outcome.OK), None):
        return broken
    found = min(records, key=lambda record: record.metrics["worst_block_psnr"])
    whole = [record.metrics["psnr"] for record in records if "psnr" in record.metrics]
    return replace(found, metrics=found.metrics | ({"psnr": min(whole)} if whole else {}))


def _files(made: Painted) -> Files:
    return {"picture": made.picture, "picture_float": made.picture_float, "eps": made.eps}


class _Comparer:
    """The worker that computes metrics, started when it is needed and replaced when it breaks."""

    def __init__(self, coordinator: Coordinator, job: Job, observer: Observer) -> None:
        self._coordinator = coordinator
        self._job = job
        self._observer = observer
        self._worker: WorkerProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._worker is not None:
            self._worker.stop()

    def judge(self, pairing: Pairing, evidence: Evidence) -> FidelityRecord:
        """Hold one thing against the other, or tell why that cannot be."""
        found = sides(pairing, evidence)
        if isinstance(found, Failure):
            return _failed(pairing, found)
        alone = evidence.alone[pairing.arm]
        assert isinstance(alone, Alone)
        references, ours = found
        records = [self._ask(pairing, reference, ours) for reference in references]
        record = records[0] if len(records) == 1 else worst(records)
        distinct = alone.distinct_pictures if pairing.reference == REPEAT else 1 + len(records)
        if pairing.reference in (REPEAT, OTHER_PROCESS) and record.metrics:
            assert distinct is not None
            modes = {"distinct_pictures": float(distinct)}
            record = replace(record, metrics=record.metrics | modes)
        return replace(record, picture_sha256=alone.picture_sha256)

    def _ask(self, pairing: Pairing, theirs: Files, ours: Files) -> FidelityRecord:
        if self._worker is None or not self._worker.alive:
            self._worker = WorkerProcess(self._coordinator.folder / "fidelity.log", self._job.judge)
        shown = pairing.reference == self._job.plan.arms[0]
        request = Judge(
            case=pairing.case,
            pipeline=pairing.arm,
            reference=pairing.reference,
            image=self._coordinator.gallery.inputs[pairing.case] if shown else None,
            reference_files=theirs,
            candidate_files=ours,
            device=self._job.device,
        )
        reply = self._worker.ask(Judged, request, self._job.timeout_s)
        if isinstance(reply, Failure):
            what = f"{pairing.arm} {pairing.case} against {pairing.reference}"
            self._observer.note(f"fidelity of {what}: {reply.reason}")
            if tail := self._worker.log_tail():
                self._observer.note(tail)
            return _failed(pairing, reply)
        return FidelityRecord.from_json(reply.record)


def _failed(pairing: Pairing, failure: Failure) -> FidelityRecord:
    return FidelityRecord(
        case=pairing.case,
        pipeline=pairing.arm,
        reference=pairing.reference,
        outcome=failure.outcome.value,
        reason=failure.reason,
    )
