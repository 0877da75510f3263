"""The measurement of one test: blocks of ABBA pairs of two callables."""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from srbench.config import MAX_SEED
from srbench.coordinator import utc_now
from srbench.errors import UsageError, did_you_mean
from srbench.gate.policy import DEFAULT_TIERS
from srbench.in_process.pictures import ARMS, compare_pictures, digest
from srbench.outcome import classify
from srbench.plan import Plan, Warmup
from srbench.probes.clock import timed
from srbench.records import BlockRecord, CellRecord, FidelityRecord, Sample

NOTE = "blocks of one process, not fresh ones: weaker evidence than `srbench run`"
WARMUP = 3
LEAST_SAMPLE_MS = 1.0
"""Faster callables are repeated inside one sample, or the timer would be most of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """How one test is measured and judged.

    Attributes:
        blocks: Repetitions of warm-up and pairs; 6, 10 and 16 are the looks of the gate.
        pairs: Timed pairs in each.
        seed: Of the order of the arms.
        tier: Fidelity tier that the candidate's pictures must meet.
        min_speedup: Speed-up that must be proven; None holds the candidate to the policy's margin
            as a new revision of the baseline.
    """

    blocks: int = 6
    pairs: int = 5
    seed: int = 0
    tier: str = "exact"
    min_speedup: float | None = None

    def __post_init__(self) -> None:
        """Refuse what could not be measured or judged."""
        for name, least in (("blocks", 1), ("pairs", 1), ("seed", 0)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value <= MAX_SEED:
                raise UsageError(f"{name} {value!r}: must be a whole number of {least} or more")
        if self.tier not in list(DEFAULT_TIERS):
            hint = did_you_mean(str(self.tier), list(DEFAULT_TIERS))
            raise UsageError(f"tier {self.tier!r}: no such fidelity tier.{hint}")
        if self.min_speedup is not None and not _is_factor(self.min_speedup):
            raise UsageError(f"min_speedup {self.min_speedup!r}: must be a finite number above 0")


@dataclass(slots=True)
class Measurement:
    """What one test gave; a context in which a callable that raises becomes a recorded outcome."""

    case: str
    design: Design
    device: str = "cpu"
    cells: list[CellRecord] = field(default_factory=list)
    fidelity: list[FidelityRecord] = field(default_factory=list)
    blocks: list[BlockRecord] = field(default_factory=list)
    iterations: int = 1
    _running: str = ARMS[0]

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Record a crash, an out-of-memory error, ...; the exception goes on to the test."""
        if not isinstance(error, Exception):
            return
        failure = classify(error)
        broken = CellRecord(
            block=len(self.blocks),
            case=self.case,
            pipeline=self._running,
            outcome=failure.outcome.value,
            reason=failure.reason,
        )
        self._close_block([broken])

    @property
    def made_pictures(self) -> bool:
        """Whether anything that was returned is a picture."""
        samples = (sample for cell in self.cells for sample in cell.samples)
        return bool(self.fidelity) or any(sample.get("output_sha256") for sample in samples)

    @property
    def outcome(self) -> str:
        """How the last cell ended; of the record's words, or `not measured`."""
        return self.cells[-1].outcome if self.cells else "not measured"

    def measure(self, baseline: Callable[[], Any], candidate: Callable[[], Any]) -> None:
        """Fill in every block; the pictures of the first warm-up are compared.

        Each callable is called once before: what it uses of the machine decides how it is timed.
        """
        calls = dict(zip(ARMS, (baseline, candidate), strict=True))
        plan = Plan(
            cases=(self.case,),
            arms=ARMS,
            blocks=self.design.blocks,
            pairs=self.design.pairs,
            seed=self.design.seed,
            warmup=Warmup(first=WARMUP, later=WARMUP, until_steady=False),
        )
        for arm, call in calls.items():
            self._running = arm
            call()
        self.device = device_in_use()
        for index in range(plan.blocks):
            gc.collect()
            warmups = {arm: self._warm_up(arm, call) for arm, call in calls.items()}
            if index == 0:
                self._settle(warmups)
            samples = self._samples(calls, plan.block(index)[0].rounds)
            self._close_block(
                CellRecord(
                    block=index,
                    case=self.case,
                    pipeline=arm,
                    outcome="ok",
                    warmup_ms=warmups[arm][0],
                    samples=[sample.to_json() for sample in samples[arm]],
                    picture_sha256=_judged(warmups[arm][1]) if index == 0 else None,
                )
                for arm in ARMS
            )

    def _close_block(self, cells: Iterable[CellRecord]) -> None:
        """Keep a block's cells; one in which a callable raised is closed as well, so it counts."""
        notes = [NOTE]
        if self.iterations > 1:
            notes.append(f"{self.case}: a sample is the mean of {self.iterations} calls")
        self.cells += cells
        self.blocks.append(BlockRecord(block=len(self.blocks), finished_at=utc_now(), notes=notes))

    def _warm_up(self, arm: str, call: Callable[[], Any]) -> tuple[list[float], Any]:
        self._running = arm
        timings = [timed(call, self.device) for _ in range(WARMUP)]
        return [timing.latency_ms for timing in timings], timings[-1].result

    def _settle(self, warmups: dict[str, tuple[list[float], Any]]) -> None:
        """From the first warm-up: calls in a sample, alike for both arms, and the pictures."""
        fastest = min(min(latencies) for latencies, _ in warmups.values())
        self.iterations = max(1, math.ceil(LEAST_SAMPLE_MS / max(fastest, 1e-4)))
        baseline, candidate = (warmups[arm][1] for arm in ARMS)
        record = compare_pictures(self.case, baseline, candidate)
        if record is not None:
            self.fidelity = [replace(record, picture_sha256=_judged(candidate))]

    def _samples(
        self, calls: dict[str, Callable[[], Any]], rounds: Sequence[Sequence[str]]
    ) -> dict[str, list[Sample]]:
        samples: dict[str, list[Sample]] = {arm: [] for arm in ARMS}
        position = 0
        for pair, order in enumerate(rounds):
            for arm in order:
                self._running = arm
                timing = timed(self._repeated(calls[arm]), self.device)
                times = self.iterations
                samples[arm].append(
                    Sample(
                        pair=pair,
                        position=position,
                        latency_ms=timing.latency_ms / times,
                        gpu_ms=None if timing.gpu_ms is None else timing.gpu_ms / times,
                        stages_ms={k: time / times for k, time in timing.stages_ms.items()},
                        output_sha256=digest(timing.result),
                    )
                )
                position += 1
        return samples

    def _repeated(self, call: Callable[[], Any]) -> Callable[[], Any]:
        if self.iterations == 1:
            return call
        more = range(self.iterations - 1)

        def repeated() -> Any:
            for _ in more:
                call()
            return call()

        return repeated


def _is_factor(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value <= sys.float_info.max


def _judged(picture: Any) -> str | None:
    """The hash that the timed pictures are held against; None of what is no picture."""
    return digest(picture) or None


def device_in_use() -> str:
    """`cuda` once this process has used it; asking neither imports torch nor makes a context."""
    torch = sys.modules.get("torch")
    return "cuda" if torch is not None and torch.cuda.is_initialized() else "cpu"
