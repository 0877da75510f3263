"""One case of one arm in one block, while it is measured."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from srbench.arm import Arm
from srbench.cases import Case
from srbench.outcome import Failure, Outcome
from srbench.plan import Warmup, is_warm
from srbench.protocol import Alone, Prepare, Prepared, Timed, Upscale
from srbench.records import CellRecord, Sample


@dataclass(slots=True)
class Draft:
    """What is known so far; the attributes are those of `CellRecord`."""

    prepare_ms: float | None = None
    decisions: dict[str, str] = field(default_factory=dict)
    load_ms: float | None = None
    warmup_ms: list[float] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    alone: Alone | None = None
    failure: Failure | None = None

    def record(self, block: int, case: str, pipeline: str) -> CellRecord:
        """The line to store."""
        alone: dict[str, Any] = {}
        if self.alone is not None:
            alone = {
                "memory": self.alone.memory,
                "work": self.alone.work,
                "energy_j": self.alone.energy_j,
                "energy": self.alone.energy,
                "picture_sha256": self.alone.picture_sha256,
            }
        return CellRecord(
            block=block,
            case=case,
            pipeline=pipeline,
            outcome=(self.failure.outcome if self.failure else Outcome.OK).value,
            reason=self.failure.reason if self.failure else None,
            load_ms=self.load_ms,
            prepare_ms=self.prepare_ms,
            decisions=self.decisions,
            warmup_ms=self.warmup_ms,
            samples=[sample.to_json() for sample in self.samples],
            **alone,
        )


def warm_up(arm: Arm, case: Case, request: Upscale, warmup: Warmup, draft: Draft) -> None:
    """Prepare the size and discard images until the arm is warm."""
    draft.failure = arm.ready()
    if draft.failure is not None:
        return
    draft.load_ms = arm.load_ms
    reply = arm.ask(Prepared, Prepare(width=case.width, height=case.height, scale=case.scale))
    if isinstance(reply, Failure):
        draft.failure = reply
        return
    draft.prepare_ms = reply.prepare_ms
    draft.decisions = reply.decisions
    first = arm.cases_measured == 0
    readings: list[dict[str, Any]] = []
    while not is_warm(draft.warmup_ms, readings, warmup, first_case=first):
        timed = arm.ask(Timed, request)
        if isinstance(timed, Failure):
            draft.failure = timed
            return
        draft.warmup_ms.append(timed.latency_ms)
        readings.append(timed.state.get("after", {}))
    arm.cases_measured += 1


def time_one(arm: Arm, request: Upscale, draft: Draft, pair: int, position: int) -> None:
    """Time one image."""
    timed = arm.ask(Timed, replace(request, position=position))
    if isinstance(timed, Failure):
        draft.failure = timed
        return
    draft.samples.append(
        Sample(
            pair=pair,
            position=position,
            latency_ms=timed.latency_ms,
            gpu_ms=timed.gpu_ms,
            stages_ms=timed.stages_ms,
            state=timed.state,
            output_sha256=timed.output_sha256,
        )
    )
