"""One arm in one block: its worker, started when needed and replaced when it breaks."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeVar

from pipelines.contract import WeightsSource
from srbench.answers import objection
from srbench.armspec import ArmSpec, parse_arm
from srbench.errors import InfrastructureError
from srbench.inputs import CaseInput
from srbench.ladder.arms import LadderArm
from srbench.outcome import Failure, Outcome
from srbench.plan import Plan
from srbench.protocol import Describe, Described, Load, Loaded
from srbench.watch import Watch
from srbench.wire import Message
from srbench.worker_process import Launch, WorkerProcess

R = TypeVar("R", bound=Message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that workers are told.

    Attributes:
        plan: What is measured in which order.
        assignments: Of `srbench.registry.split_assignments`.
        device: `cpu` or `cuda`.
        precision: `fp32` or `fp16`.
        weights: Of both arms.
        inputs: Case name -> image.
        noise_seed: Of the posterior noise, the same in all arms.
        timeout_s: Longest that one step of a worker may take.
        gpu_uuid: The card, None on CPU.
        arms: Arm name -> what it is; an arm that is missing here is the pipeline of its name.
        pairing: `interleaved` or `block`, see `srbench.records.RunRecord`.
        judge: How the worker that compares pictures is started.
        ladder: Of a ladder, its arms; then only what is looked at in one is gathered beside times.
    """

    plan: Plan
    assignments: dict[str, dict[str, str]]
    device: str
    precision: str
    weights: WeightsSource
    inputs: dict[str, CaseInput]
    noise_seed: int
    timeout_s: float
    gpu_uuid: str | None = None
    arms: Mapping[str, ArmSpec] = field(default_factory=dict)
    pairing: str = "interleaved"
    judge: Launch = field(default_factory=Launch)
    ladder: tuple[LadderArm, ...] = ()

    def arm(self, name: str) -> ArmSpec:
        """What the arm of that name is."""
        return self.arms[name] if name in self.arms else parse_arm(name)


class Arm:
    """A pipeline under measurement; a worker that failed in earnest is not asked again."""

    def __init__(self, name: str, job: Job, folder: Path, note: Callable[[str], None]) -> None:
        """Start the worker and let it import, without waiting.

        Args:
            name: Of the arm.
            job: What workers are told.
            folder: For the worker's log.
            note: Told what broke.
        """
        self.name = name
        self.cases_measured = 0
        self.load_ms: float | None = None
        self.tf32: bool | None = None
        self._job = job
        self._note = note
        self._spec = job.arm(name)
        self._log = folder / f"worker-{job.plan.arms.index(name)}.log"
        self._broken: Failure | None = None
        self._worker: WorkerProcess | None = None
        self._watch: Watch | None = None
        self._watched: set[int] = set()
        self._start()

    def _start(self) -> None:
        self._described: Described | Failure | None = None
        self.load_ms = None
        self.cases_measured = 0
        try:
            worker = self._worker = WorkerProcess(self._log, self._spec.launch)
            self._watched = self.pids | {worker.pid}
            if self._spec.launch.foreign:
                self._watch = Watch(worker.pid, self._job.gpu_uuid, self._expect)
        except InfrastructureError as error:
            self.kill()
            self._described = Failure(Outcome.CRASH, str(error))
            return
        worker.send(
            Describe(arm=self.name, pipeline=self._spec.pipeline, assignments=self._job.assignments)
        )

    def describe(self) -> Described | Failure:
        """Facts of the pipeline, waited for the first time only."""
        if self._described is None:
            reply = self._expect(Described, None)
            self._described = reply
        return self._described

    def load(self) -> Loaded | Failure:
        """Load the weights; a worker that cannot is not tried again in this block."""
        described = self.describe()
        if isinstance(described, Failure):
            self._broken = described
            return described
        weights = asdict(self._job.weights)
        request = Load(
            **{**weights, "path": str(self._job.weights.path)},
            device=self._job.device,
            precision=self._job.precision,
            gpu_uuid=self._job.gpu_uuid,
        )
        reply = self._expect(Loaded, request)
        if isinstance(reply, Failure):
            self._broken = reply
        else:
            self.load_ms, self.tf32 = reply.load_ms, reply.tf32
        return reply

    def ready(self) -> Failure | None:
        """Have a loaded worker, a fresh one if the last broke; or why there is none."""
        if self._broken is not None:
            return self._broken
        if self._worker is None:
            self._start()
        if self.load_ms is None:
            reply = self.load()
            return reply if isinstance(reply, Failure) else None
        return None

    def ask(self, kind: type[R], request: Message) -> R | Failure:
        """Do one request in a loaded worker."""
        if failure := self.ready():
            return failure
        return (
            self._expect(kind, request) if self._watch is None else self._watch.ask(kind, request)
        )

    def _expect(
        self, kind: type[R], request: Message | None, size: tuple[int, int] | None = None
    ) -> R | Failure:
        """Put a request to the worker, or read the answer to the one it has; see `objection`."""
        worker = self._worker
        assert worker is not None
        start = time.perf_counter()
        if request is not None:
            worker.send(request)
        reply = worker.receive(kind, self._job.timeout_s)
        if not isinstance(reply, Failure):
            real = request is not None and self._job.device in ("cpu", "cuda")
            spent_ms = (time.perf_counter() - start) * 1000 if real else None
            if wrong := objection(request, reply, spent_ms, size):
                reply = worker.distrust(wrong)
        if isinstance(reply, Failure):
            if reply.outcome is not Outcome.UNSUPPORTED:
                self._discard(reply)
            return reply
        return reply

    def _discard(self, failure: Failure) -> None:
        """After a crash, a time-out or an exhausted device the process is not to be trusted."""
        worker, self._worker = self._worker, None
        assert worker is not None
        worker.kill()
        self._note(f"{self.name}: {failure.outcome}: {failure.reason}")
        if failure.outcome is not Outcome.OUT_OF_MEMORY and (tail := worker.log_tail()):
            self._note(tail)

    @property
    def pids(self) -> set[int]:
        """Processes of its workers, ended ones included, and what foreign ones had started."""
        return self._watched if self._watch is None else self._watched | self._watch.pids

    def stop(self) -> None:
        """Let the worker leave."""
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def kill(self) -> None:
        """End the worker at once."""
        if self._worker is not None:
            self._worker.kill()
            self._worker = None
