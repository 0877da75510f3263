"""The roofline of cases and pipelines, derived once: printers below only know formats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.contract import OperatorCount
from srbench.profiles import Profile
from srbench.protocol import Counted, CountedOperators
from srbench.roofline.achieved import Achieved, Times
from srbench.roofline.ceilings import CeilingsFile
from srbench.roofline.limits import Limits, limit_seconds, regime
from srbench.roofline.operators import StageWork, read_operators, whole_work, work_by_stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One stage, or a whole image, of one pipeline.

    Attributes:
        work: Counted.
        regime: `compute` or `memory`, by the measured ceilings where there are some; None where
            the limit is nothing.
        limits_ms: Source of the limits -> the least time, sum over operators.
        time_ms: Median; None when not measured.
    """

    work: StageWork
    regime: str | None
    limits_ms: dict[str, float]
    time_ms: float | None

    @property
    def tflop_per_s(self) -> float | None:
        """Counted work over measured time."""
        return self.work.flops / self.time_ms / 1e9 if self.time_ms else None

    @property
    def flop_per_byte(self) -> float | None:
        """Arithmetic intensity of the ideal traffic, which the limits are made of."""
        return self.work.flops / self.work.ideal_bytes if self.work.ideal_bytes else None

    def percent_of(self, source: str) -> float | None:
        """Limit over measured time, in per cent; None where there is no time or nothing to do."""
        limit = self.limits_ms.get(source)
        return 100 * limit / self.time_ms if limit and self.time_ms else None

    def to_json(self) -> dict[str, Any]:
        """For `--json`; what is not known is null."""
        sources = ("datasheet", "measured")
        return {
            "tflop": self.work.flops / 1e12,
            "bytes": self.work.bytes,
            "ideal_bytes": self.work.ideal_bytes,
            "weight_bytes": self.work.weight_bytes,
            "launches": self.work.launches,
            "tflop_by_kind": {kind: flops / 1e12 for kind, flops in self.work.kinds.items()},
            "flop_per_byte": self.flop_per_byte,
            "regime": self.regime,
            "limit_ms": {source: self.limits_ms.get(source) for source in sources},
            "time_ms": self.time_ms,
            "tflop_per_s": self.tflop_per_s,
            "percent_of_limit": {source: self.percent_of(source) for source in sources},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineRoofline:
    """One pipeline in one case.

    Attributes:
        whole: The image.
        stages: In order of execution, counted or timed.
        fp16: Operators at the precision of datasheets.
        not_measured: Why there is no time; None where there is one.
    """

    whole: Entry
    stages: dict[str, Entry]
    fp16: tuple[OperatorCount, ...]
    not_measured: str | None

    def to_json(self, cards: Mapping[str, Limits]) -> dict[str, Any]:
        """For `--json`, with the least time on each of these cards, at fp16."""
        by_card = {name: 1e3 * limit_seconds(self.fp16, each) for name, each in cards.items()}
        return {
            **self.whole.to_json(),
            "datasheet_limit_ms": by_card if self.fp16 else {},
            "not_measured": self.not_measured,
            "stages": {name: entry.to_json() for name, entry in self.stages.items()},
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Roofline:
    """Everything that is printed.

    Attributes:
        profile: Of the card.
        precision: That bytes are told at.
        limits: Datasheet and measured, those there are.
        ceilings: Measured; None when none are stored.
        run_id: Where times come from; None without one.
        synthetic: What the weights are called whose networks these are, where they are synthetic.
        cases: Case -> pipeline -> roofline.
    """

    profile: Profile
    precision: str
    limits: tuple[Limits, ...]
    ceilings: CeilingsFile | None
    run_id: str | None
    synthetic: str | None = None
    cases: dict[str, dict[str, PipelineRoofline]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The device; of a CPU without limits or times there is only work."""
        known = self.limits or self.run_id or self.profile.device == "cuda"
        return self.profile.title if known else "counted work"

    @property
    def label(self) -> str:
        """What captions and titles carry, as those of a report do."""
        words = [self.title, self.precision]
        return ", ".join([*words, "SYNTHETIC weights"] if self.synthetic else words)


def build_roofline(
    profile: Profile,
    precision: str,
    counted: Mapping[tuple[str, str], Counted],
    achieved: Achieved,
    ceilings: CeilingsFile | None,
    limits: Sequence[Limits],
) -> Roofline:
    """Derive everything from counts, ceilings and the times of a run."""
    cases: dict[str, dict[str, PipelineRoofline]] = {}
    for (case, arm), counts in counted.items():
        cases.setdefault(case, {})[arm] = _pipeline(
            counts, precision, achieved.times.get((case, arm)),
            achieved.reasons.get((case, arm)), limits,
        )  # fmt: skip
    return Roofline(
        profile=profile,
        precision=precision,
        limits=tuple(limits),
        ceilings=ceilings,
        run_id=achieved.run_id if achieved.times else None,
        synthetic=achieved.synthetic,
        cases=cases,
    )


def _pipeline(
    counts: Counted,
    precision: str,
    times: Times | None,
    reason: str | None,
    limits: Sequence[Limits],
) -> PipelineRoofline:
    lines = counts.operators if isinstance(counts, CountedOperators) else []
    operators = read_operators(lines, precision)
    stages_ms = {} if times is None else times.stages_ms
    stages = work_by_stage(counts.flops, operators, stages_ms)
    whole = whole_work(operators) if operators else StageWork(flops=sum(counts.flops.values()))
    return PipelineRoofline(
        whole=_entry(whole, None if times is None else times.latency_ms, limits),
        stages={name: _entry(work, stages_ms.get(name), limits) for name, work in stages.items()},
        fp16=read_operators(lines, "fp16"),
        not_measured=reason,
    )


def _entry(work: StageWork, time_ms: float | None, limits: Sequence[Limits]) -> Entry:
    known = limits if work.operators else ()
    return Entry(
        work=work,
        regime=regime(work, limits[-1]) if limits else None,
        limits_ms={each.source: 1e3 * limit_seconds(work.operators, each) for each in known},
        time_ms=time_ms,
    )
