"""Runs the plan: fresh workers a block, one of them told to work at a time, every cell stored."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

import numpy as np

from srbench.arm import Arm, Job
from srbench.cases import Case
from srbench.cell import Draft, time_one, warm_up
from srbench.errors import InfrastructureError, UsageError
from srbench.outcome import Failure, Outcome
from srbench.plan import CellPlan
from srbench.protocol import Alone, Described, Solo, Upscale
from srbench.records import BlockRecord, CellRecord, Record


class Sink(Protocol):
    """Takes records for good; `srbench.store.RunWriter` is one."""

    def append(self, records: list[Record]) -> None:
        """Store them before returning."""


class Observer(Protocol):
    """Told how far a run is."""

    def cell_done(self, cell: CellRecord) -> None:
        """A cell is stored."""

    def note(self, text: str) -> None:
        """Something that a person at the terminal should read."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the pipelines say of themselves before anything is measured.

    Attributes:
        described: Arm name -> facts.
        tf32: Whether TF32 arithmetic is allowed in any arm.
    """

    described: dict[str, Described]
    tf32: bool


class Coordinator:
    """One run. Use as a context manager: on the way out no worker is left behind."""

    def __init__(self, job: Job, observer: Observer) -> None:
        """Prepare a run; nothing is started yet."""
        self._job = job
        self._observer = observer
        self._cleanup = ExitStack()
        self._arms: dict[str, Arm] = {}
        self._alone: dict[tuple[str, str], Alone | Failure] = {}
        self._images: dict[str, str] = {}
        self._differing: list[str] = []

    def __enter__(self) -> Self:
        folder = self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="srbench-"))
        self._folder = Path(folder)
        for number, (case, image) in enumerate(self._job.inputs.items()):
            file = str(self._folder / f"input-{number}.npy")
            np.save(file, image.pixels, allow_pickle=False)
            self._images[case] = file
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.kill()
        self._cleanup.close()

    def kill(self) -> None:
        """End all workers at once."""
        for arm in self._arms.values():
            arm.kill()
        self._arms = {}

    def open(self) -> Facts:
        """Start the first block's workers, check what the pipelines say, load their weights.

        Raises:
            UsageError: An unknown pipeline, option or precision, or unusable weights.
            InfrastructureError: A worker broke before it could say anything.
        """
        arms = self._workers()
        described = {}
        for name, arm in arms.items():
            facts = arm.describe()
            if isinstance(facts, Failure):
                _refuse(name, facts)
            else:
                described[name] = facts
        for name, facts in described.items():
            if self._job.precision not in facts.precisions:
                known = ", ".join(facts.precisions)
                raise UsageError(f"--precision {self._job.precision}: {name} supports only {known}")
        for arm in arms.values():
            loaded = arm.load()
            if isinstance(loaded, Failure) and loaded.outcome is Outcome.UNSUPPORTED:
                raise UsageError(loaded.reason)
        return Facts(described, any(arm.tf32 for arm in arms.values()))

    def run(self, sink: Sink, finished: Collection[int], stop: Callable[[], bool]) -> bool:
        """Measure all blocks that are not finished.

        Args:
            sink: Takes each cell as soon as it is measured.
            finished: Blocks to skip.
            stop: Asked before each block.

        Returns:
            False when it was stopped.
        """
        for index in range(self._job.plan.blocks):
            if index in finished:
                continue
            if stop():
                return False
            self._measure_block(index, sink)
        return not stop()

    def pictures(self, case: str) -> dict[str, Alone | Failure]:
        """What each arm made of a case in the solo phase, made now if this process has not."""
        found = {}
        for name in self._job.plan.arms:
            if (case, name) not in self._alone:
                self._alone[case, name] = self._solo(self._workers()[name], case)
            found[name] = self._alone[case, name]
        return found

    def image(self, case: str) -> str:
        """The `.npy` file of a case's input."""
        return self._images[case]

    @property
    def folder(self) -> Path:
        """Temporary folder of this run."""
        return self._folder

    def _workers(self) -> dict[str, Arm]:
        """The current pair; a fresh one is started together, so that its imports overlap."""
        if not self._arms:
            self._arms = {
                name: Arm(name, self._job, self._folder, self._observer.note)
                for name in self._job.plan.arms
            }
        return self._arms

    def close_workers(self) -> None:
        """Let the current workers leave, so that the next ones are fresh."""
        for arm in self._arms.values():
            arm.stop()
        self._arms = {}

    def _measure_block(self, index: int, sink: Sink) -> None:
        arms = self._workers()
        for arm in arms.values():
            arm.ready()
        for cell in self._job.plan.block(index):
            records = self._measure_cell(index, cell, arms)
            sink.append(list(records))
            for record in records:
                self._observer.cell_done(record)
        self.close_workers()
        sink.append([BlockRecord(block=index, finished_at=utc_now(), notes=self._notes(index))])

    def _measure_cell(self, index: int, cell: CellPlan, arms: dict[str, Arm]) -> list[CellRecord]:
        request = self._upscale(cell.case)
        warmup = self._job.plan.warmup
        drafts = {name: Draft() for name in arms}
        for name, arm in arms.items():
            warm_up(arm, Case.parse(cell.case), request, warmup, drafts[name])
        position = 0
        for pair, order in enumerate(cell.rounds):
            for name in order:
                if drafts[name].failure is None:
                    time_one(arms[name], request, drafts[name], pair, position)
                    position += 1
        if index == 0:
            for name, arm in arms.items():
                self._measure_alone(arm, cell.case, drafts[name])
        return [draft.record(index, cell.case, name) for name, draft in drafts.items()]

    def _measure_alone(self, arm: Arm, case: str, draft: Draft) -> None:
        result = draft.failure or self._solo(arm, case)
        self._alone[case, arm.name] = result
        if isinstance(result, Alone):
            draft.alone = result
            if any(sample.output_sha256 != result.picture_sha256 for sample in draft.samples):
                self._differing.append(
                    f"{case} {arm.name}: timed images differ from the judged one"
                )

    def _solo(self, arm: Arm, case_name: str) -> Alone | Failure:
        case = Case.parse(case_name)
        number = self._job.plan.cases.index(case_name), self._job.plan.arms.index(arm.name)
        return arm.ask(
            Alone,
            Solo(
                image=self._images[case_name],
                scale=case.scale,
                seed=self._job.noise_seed,
                outputs=str(self._folder / f"output-{number[0]}-{number[1]}"),
            ),
        )

    def _upscale(self, case: str) -> Upscale:
        return Upscale(
            image=self._images[case],
            scale=Case.parse(case).scale,
            seed=self._job.noise_seed,
        )

    def _notes(self, index: int) -> list[str]:
        """What a cell's record has no room for: solo phases that failed, energy not measured."""
        if index != 0:
            return []
        notes = self._differing
        for (case, name), result in self._alone.items():
            if isinstance(result, Failure):
                notes.append(f"{case} {name}: solo phase: {result.outcome}: {result.reason}")
            elif result.energy_reason is not None:
                notes.append(f"{case} {name}: energy not measured: {result.energy_reason}")
        return notes


def utc_now() -> str:
    """ISO 8601, UTC, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _refuse(name: str, failure: Failure) -> None:
    if failure.outcome is Outcome.UNSUPPORTED:
        raise UsageError(failure.reason)
    raise InfrastructureError(f"{name}: the worker broke at its start: {failure.reason}")
