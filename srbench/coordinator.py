"""Runs the plan: fresh workers a block, one of them told to work at a time, every cell stored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from srbench.arm import Arm, Job
from srbench.block import device_states, time_alone, time_in_turns
from srbench.cases import Case
from srbench.cell import Draft
from srbench.errors import InfrastructureError
from srbench.gallery import Gallery
from srbench.opening import (
    Facts,
    arms_to_load,
    describe_all,
    fit_together,
    load_all,
    require_exclusive,
    started_together,
)
from srbench.outcome import Failure
from srbench.probes.disturbance import disturbances, tags
from srbench.protocol import Alone, Described, Upscale
from srbench.records import BlockRecord, CellRecord, Record, VoidRecord
from srbench.scratch import run_folder
from srbench.sequence import measure_blocks

MAX_ATTEMPTS = 4
"""A disturbed block is repeated three times at most: a machine that others use is none to measure
on, and going on until a block happens to pass would choose the results."""


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


class Coordinator:
    """One run. Use as a context manager: on the way out no worker is left behind.

    Attributes:
        gallery: What the arms painted.
    """

    def __init__(self, job: Job, observer: Observer) -> None:
        """Prepare a run; nothing is started yet."""
        self._job = job
        self._observer = observer
        self._cleanup = ExitStack()
        self._arms: dict[str, Arm] = {}
        self._differing: list[str] = []
        self._pairing = job.pairing

    def __enter__(self) -> Self:
        self._folder = self._cleanup.enter_context(run_folder())
        self.gallery = Gallery(self._job, self._folder)
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
            InfrastructureError: A worker broke before it could say anything, or somebody else
                computes on the card.
        """
        if self._job.gpu_uuid is not None:
            require_exclusive(self._job.gpu_uuid)
        if self._pairing == "block":
            return self._open_one_by_one()
        arms = self._workers()
        described = describe_all(arms, self._job.precision)
        load_all(arms, one_by_one=False, cases=self._job.plan.cases)
        if self._job.device == "cuda" and not fit_together(arms, self._job.plan.cases):
            self._pairing = "block"
            self._observer.note("the arms do not fit on the card together: one after the other")
            self.close_workers()
        return Facts(described, any(arm.tf32 for arm in arms.values()), self._pairing)

    def _open_one_by_one(self) -> Facts:
        """A few workers at a time, of which one has loaded weights."""
        described: dict[str, Described] = {}
        tf32 = False
        loading = arms_to_load(self._job)
        for names in started_together(self._job.plan.arms):
            arms = self._workers(*names)
            described |= describe_all(arms, self._job.precision)
            loaded = {name: arms[name] for name in names if name in loading}
            load_all(loaded, one_by_one=True, cases=self._job.plan.cases)
            tf32 = tf32 or any(arm.tf32 for arm in arms.values())
            self.close_workers()
        return Facts(described, tf32, self._pairing)

    def run(
        self,
        sink: Sink,
        finished: Collection[int],
        stop: Callable[[], bool],
        decided: Callable[[], bool] = lambda: False,
    ) -> int | None:
        """Measure all blocks that are not finished, see `srbench.sequence.measure_blocks`.

        Raises:
            InfrastructureError: A block was disturbed each time it was tried.
        """
        return measure_blocks(
            self._job.plan,
            lambda index: self.measure_block(index, sink),
            finished,
            stop=stop,
            decided=decided,
        )

    def pictures(self, case: str) -> dict[str, Alone | Failure]:
        """What each arm made of a case in the solo phase, made now if this process has not."""
        self.paint([case])
        return {name: self.gallery.alone[case, name] for name in self._job.plan.arms}

    def paint(self, cases: Iterable[str]) -> None:
        """Make what this process has not of the solo phases of some cases, arm by arm."""
        alone = self.gallery.alone
        wanted = list(cases)
        for name in self._job.plan.arms:
            for case in wanted:
                if (case, name) in alone:
                    continue
                if name not in self._arms and self._pairing == "block":
                    self.close_workers()
                only = (name,) if self._pairing == "block" else ()
                alone[case, name] = self.gallery.solo(self._workers(*only)[name], case)

    @property
    def folder(self) -> Path:
        """Temporary folder of this run."""
        return self._folder

    def _workers(self, *only: str) -> dict[str, Arm]:
        """The current workers; fresh ones are started together, so that their imports overlap."""
        if not self._arms:
            self._arms = {
                name: Arm(name, self._job, self._folder, self._observer.note)
                for name in only or self._job.plan.arms
            }
        return self._arms

    def close_workers(self) -> None:
        """Let the current workers leave, so that the next ones are fresh."""
        for arm in self._arms.values():
            arm.stop()
        self._arms = {}

    def measure_block(self, index: int, sink: Sink, first_attempt: int = 1) -> None:
        """Measure one block until nothing disturbs it.

        Args:
            index: Of the block.
            sink: Takes each cell as soon as it is measured, then what closes the block.
            first_attempt: Its number, from 1; earlier ones broke off elsewhere.

        Raises:
            InfrastructureError: It was disturbed each time it was tried.
        """
        measure = self._one_by_one if self._pairing == "block" else self._in_turns
        together = 1 if self._pairing == "block" else len(self._job.plan.arms)
        reasons: list[str] = []
        for attempt in range(first_attempt, MAX_ATTEMPTS + 1):
            self._differing = []
            before = self.gallery.snapshot()
            states, pids = measure(index, attempt, sink)
            reasons = disturbances(states, pids, together)
            if not reasons:
                notes = [*tags(states), *self._notes(index)]
                sink.append([BlockRecord(block=index, finished_at=utc_now(), notes=notes)])
                return
            void = VoidRecord(block=index, attempt=attempt, finished_at=utc_now(), reasons=reasons)
            sink.append([void])
            self.gallery.restore(before)
            self._observer.note(f"block {index} does not count: {'; '.join(reasons)}")
        raise InfrastructureError(
            f"block {index} was disturbed {MAX_ATTEMPTS} times, last: {'; '.join(reasons)}; "
            "have the device to yourself, then --resume goes on"
        )

    def _in_turns(
        self, index: int, attempt: int, sink: Sink
    ) -> tuple[list[Mapping[str, Any]], set[int]]:
        """Measure a block with all arms warm; returns the card's readings and the workers' ids."""
        arms = self._workers()
        for arm in arms.values():
            arm.ready()
        states: list[Mapping[str, Any]] = []
        for cell in self._job.plan.block(index):
            request = self._upscale(cell.case, index, attempt)
            drafts = time_in_turns(cell, arms, request, self._job.plan.warmup)
            for name, draft in drafts.items():
                states += self._conclude(index, cell.case, arms[name], draft)
            self._store(index, cell.case, drafts, sink)
        self.close_workers()
        return states, {pid for arm in arms.values() for pid in arm.pids}

    def _one_by_one(
        self, index: int, attempt: int, sink: Sink
    ) -> tuple[list[Mapping[str, Any]], set[int]]:
        """Measure a block one arm after the other, in the order of the plan's first round."""
        plan = self._job.plan
        states: list[Mapping[str, Any]] = []
        pids: set[int] = set()
        for turn, name in enumerate(plan.block(index)[0].rounds[0]):
            arm = self._workers(name)[name]
            for cell in plan.block(index):
                start = turn * plan.pairs
                request = self._upscale(cell.case, index, attempt)
                draft = time_alone(cell, arm, request, plan.warmup, start)
                states += self._conclude(index, cell.case, arm, draft)
                self._store(index, cell.case, {name: draft}, sink)
            self.close_workers()
            pids |= arm.pids
        return states, pids

    def _conclude(self, index: int, case: str, arm: Arm, draft: Draft) -> list[Mapping[str, Any]]:
        states = device_states(draft)
        place = case, arm.name
        if index == 0:
            alone = self.gallery.alone[place] = draft.failure or self.gallery.solo(arm, case)
            if isinstance(alone, Alone):
                draft.alone = alone
                states += alone.states
        strange = self.gallery.strange(place, (sample.output_sha256 for sample in draft.samples))
        if strange and index > 0:
            self.gallery.paint_again(arm, case, index)
        if strange and self.gallery.knows(place):
            self._differing.append(f"{case} {arm.name}: timed images differ from the judged one")
        return states

    def _store(self, index: int, case: str, drafts: Mapping[str, Draft], sink: Sink) -> None:
        records = [draft.record(index, case, name) for name, draft in drafts.items()]
        sink.append(list(records))
        for record in records:
            self._observer.cell_done(record)

    def _upscale(self, case: str, block: int, attempt: int) -> Upscale:
        return Upscale(
            image=self.gallery.inputs[case],
            scale=Case.parse(case).scale,
            seed=self._job.noise_seed,
            block=block,
            attempt=attempt,
        )

    def _notes(self, index: int) -> list[str]:
        """What a cell's record has no room for: solo phases that failed, energy not measured."""
        notes = list(self._differing)
        if index != 0:
            return notes
        for (case, name), result in self.gallery.alone.items():
            if isinstance(result, Failure):
                notes.append(f"{case} {name}: solo phase: {result.outcome}: {result.reason}")
            elif result.energy_reason is not None:
                notes.append(f"{case} {name}: energy not measured: {result.energy_reason}")
        return notes


def utc_now() -> str:
    """ISO 8601, UTC, seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")
