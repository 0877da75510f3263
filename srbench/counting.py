"""Exact work of each case and arm, counted on the meta device: no weights, no GPU, no clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from srbench.armspec import ArmSpec
from srbench.cases import Case
from srbench.config import Settings
from srbench.errors import InfrastructureError, UsageError
from srbench.fingerprint import fingerprint
from srbench.heading import start_of_run
from srbench.locks import measuring_into
from srbench.outcome import Failure, Outcome
from srbench.preparation import checked_assignments, chosen_arms, chosen_cases
from srbench.profiles import load_profile
from srbench.protocol import Counted, CountWork, Describe, Described
from srbench.records import BlockRecord, CellRecord, EndRecord, Run, RunRecord
from srbench.registry import check_shared
from srbench.revisions import checked_out
from srbench.scratch import run_folder
from srbench.store import RunWriter, check_writable, read_run
from srbench.wire import Message
from srbench.worker_process import R, WorkerProcess

META = "meta"
"""The profile and the device of runs that only count."""


@dataclass(frozen=True, slots=True)
class Counting:
    """What the workers said.

    Attributes:
        described: Arm name -> facts.
        work: (case, arm) -> counters of one image of the published architecture.
    """

    described: dict[str, Described]
    work: dict[tuple[str, str], Counted]


def count_work(
    arms: Sequence[ArmSpec],
    assignments: Mapping[str, dict[str, str]],
    cases: Sequence[Case],
    timeout_s: float,
    request: type[CountWork] = CountWork,
    first: Message | None = None,
) -> Counting:
    """Count one image of the full-size architecture, each arm in a worker of its own.

    Args:
        arms: Arms.
        assignments: Of `srbench.registry.split_assignments`.
        cases: Cases.
        timeout_s: Seconds one answer may take.
        request: What is counted: `CountWork`, or a request that is answered with more.
        first: Asked of every worker before it counts, such as `Load`.

    Raises:
        UsageError: An arm, option or size is refused.
        InfrastructureError: A worker broke.
    """
    described: dict[str, Described] = {}
    work: dict[tuple[str, str], Counted] = {}
    with ExitStack() as stack:
        folder = stack.enter_context(run_folder())
        workers: dict[str, WorkerProcess] = {}
        for number, arm in enumerate(arms):
            worker = workers[arm.name] = WorkerProcess(folder / f"{number}.log", arm.launch)
            stack.callback(worker.kill)
            worker.send(
                Describe(arm=arm.name, pipeline=arm.pipeline, assignments=dict(assignments))
            )
        for name, worker in workers.items():
            described[name] = _answer(worker, name, Described, timeout_s)
        if first is not None:
            for worker in workers.values():
                worker.send(first)
            for name, worker in workers.items():
                _answer(worker, name, Message, timeout_s)
        for case in cases:
            for worker in workers.values():
                worker.send(request(width=case.width, height=case.height, scale=case.scale))
            for name, worker in workers.items():
                work[case.name, name] = _answer(worker, name, Counted, timeout_s)
    return Counting(described, work)


def _answer(worker: WorkerProcess, arm: str, kind: type[R], timeout_s: float) -> R:
    reply = worker.receive(kind, timeout_s)
    if isinstance(reply, Failure):
        if reply.outcome is Outcome.UNSUPPORTED:
            raise UsageError(reply.reason)
        raise InfrastructureError(f"{arm}: counting its work: {reply.outcome}: {reply.reason}")
    return reply


def begin_counting(settings: Settings, argv: list[str]) -> tuple[Run, Path]:
    """A run of counters alone: one block, no sample, no picture; the same on every machine.

    Args:
        settings: Of the command; cases default to the documented matrix.
        argv: The command line, for the record.

    Returns:
        The run as stored and its file.

    Raises:
        UsageError: A wrong name, option or folder.
        InfrastructureError: A worker broke.
    """
    arms = chosen_arms(settings)
    cases = chosen_cases(settings, META)
    assignments = checked_assignments(settings.options, arms)
    check_writable(settings.out / META)
    arms = tuple(checked_out(arm, lambda _: None) for arm in arms)
    with measuring_into(settings.out / META):
        counting = count_work(arms, assignments, cases, settings.timeout)
        described = counting.described
        check_shared(assignments, (key for facts in described.values() for key in facts.options))
        head = _head(settings, arms, cases, described, argv)
        cells = [
            _cell(case.name, arm.name, counting.work[case.name, arm.name])
            for case in cases
            for arm in arms
        ]
        path = settings.out / META / f"{head.run_id}.jsonl"
        with RunWriter.create(settings.out, head) as writer:
            closing = [
                BlockRecord(block=0, finished_at=head.started_at),
                EndRecord(finished_at=head.started_at),
            ]
            writer.append([*cells, *closing])
    return read_run(path), path


def _head(
    settings: Settings,
    arms: Sequence[ArmSpec],
    cases: Sequence[Case],
    described: Mapping[str, Described],
    argv: list[str],
) -> RunRecord:
    return RunRecord(
        **start_of_run(load_profile(META)),
        device=META,
        precision="fp32",
        tf32=False,
        cases=[case.name for case in cases],
        pipelines=[arm.name for arm in arms],
        options={name: facts.options for name, facts in described.items()},
        versions={name: facts.version for name, facts in described.items()},
        tiers={name: facts.tiers.get("fp32", "") for name, facts in described.items()},
        weights={"kind": "none", "digest": "", "synthetic": False, "label": "shapes only"},
        inputs={case.name: {"sha256": "", "source": "shape only"} for case in cases},
        blocks=1,
        pairs=0,
        seed=settings.seed,
        noise_seed=settings.noise_seed,
        fingerprint=fingerprint(None),
        argv=argv,
        purpose="work",
        arms={arm.name: arm.to_record() for arm in arms},
    )


def _cell(case: str, arm: str, counted: Counted) -> CellRecord:
    work = asdict(counted)
    memory = {"peak_tensor_bytes": work.pop("peak_tensor_bytes")}
    return CellRecord(block=0, case=case, pipeline=arm, outcome="ok", memory=memory, work=work)
