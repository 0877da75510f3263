"""Fidelity of the pictures of a run, computed in a worker process of its own."""

from __future__ import annotations

from collections.abc import Collection

from srbench.coordinator import Coordinator, Observer, Sink
from srbench.outcome import Failure
from srbench.plan import Plan
from srbench.protocol import Alone, Judge, Judged
from srbench.records import FidelityRecord
from srbench.worker_process import WorkerProcess


def judge_run(
    coordinator: Coordinator,
    plan: Plan,
    device: str,
    timeout_s: float,
    *,
    sink: Sink,
    observer: Observer,
    done: Collection[tuple[str, str]],
) -> list[FidelityRecord]:
    """Hold every candidate against the baseline and store what is found.

    Args:
        coordinator: Of the run; pictures that it does not have are made again.
        plan: Cases and arms, the first arm being the reference.
        device: Where metrics are computed, `cpu` or `cuda`.
        timeout_s: Longest that one comparison may take.
        sink: Takes the records.
        observer: Told what broke.
        done: (case, arm) that are stored already.

    Returns:
        The new records.
    """
    reference, *candidates = plan.arms
    wanted = [(case, arm) for case in plan.cases for arm in candidates if (case, arm) not in done]
    if not wanted:
        return []
    pictures = {case: coordinator.pictures(case) for case in dict.fromkeys(c for c, _ in wanted)}
    # The pipelines leave the device before the metrics' networks come.
    coordinator.close_workers()
    worker: WorkerProcess | None = None
    records = []
    try:
        for case, arm in wanted:
            ours, theirs = pictures[case][arm], pictures[case][reference]
            failure = next((p for p in (theirs, ours) if isinstance(p, Failure)), None)
            if failure is None:
                assert isinstance(ours, Alone)
                assert isinstance(theirs, Alone)
                if worker is None or not worker.alive:
                    worker = WorkerProcess(coordinator.folder / "fidelity.log")
                request = Judge(
                    case=case,
                    pipeline=arm,
                    reference=reference,
                    image=coordinator.image(case),
                    reference_files=_files(theirs),
                    candidate_files=_files(ours),
                    device=device,
                )
                record = _judged(worker, request, timeout_s, observer)
            else:
                record = _failed(case, arm, reference, failure)
            sink.append([record])
            records.append(record)
    finally:
        if worker is not None:
            worker.stop()
    return records


def _files(alone: Alone) -> dict[str, str | None]:
    return {
        "picture": alone.picture,
        "picture_float": alone.picture_float,
        "eps": alone.eps,
    }


def _judged(
    worker: WorkerProcess, request: Judge, timeout_s: float, observer: Observer
) -> FidelityRecord:
    reply = worker.ask(request, timeout_s)
    if isinstance(reply, Failure):
        observer.note(f"fidelity of {request.pipeline} {request.case}: {reply.reason}")
        if tail := worker.log_tail():
            observer.note(tail)
        return _failed(request.case, request.pipeline, request.reference, reply)
    assert isinstance(reply, Judged)
    return FidelityRecord.from_json(reply.record)


def _failed(case: str, arm: str, reference: str, failure: Failure) -> FidelityRecord:
    return FidelityRecord(
        case=case,
        pipeline=arm,
        reference=reference,
        outcome=failure.outcome.value,
        reason=failure.reason,
    )
