"""What a report shows, derived once: printers below know formats, not measurements."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import lru_cache
from statistics import median

from pipelines.contract import STAGES
from srbench.gate.comparable import same_pipeline
from srbench.gate.fidelity import record_of
from srbench.gate.resources import memory_metric, peak_bytes, work_counters
from srbench.ladder.arms import LadderArm
from srbench.profiles import Profile, profile_or_bare
from srbench.records import FidelityRecord, Run
from srbench.roofline.stored import StoredLimits
from srbench.stats.runs import (
    baseline_arm,
    block_log_ratios,
    candidate_arms,
    cells_of,
    latencies_ms,
    stages_ms,
)
from srbench.stats.speedup import Speedup, geometric_mean_blocks, speedup
from srbench.stats.summary import Summary, summarize
from srbench.systems import S3DIFF, System, recorded_system

_SIZE = re.compile(r"(\d+)x(\d+)x(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmCell:
    """One arm in one case.

    Attributes:
        outcome: `ok`, or the worst outcome of any block.
        reason: One line when the outcome is not ok.
        latency: Of all timed samples, ms; None when there is none.
        peak_bytes: The memory number that gates here.
        stages_ms: Stage -> median time, ms, in execution order.
        work: Counter -> exact count.
        prepare_ms: Median over blocks of the preparation for this size.
        first_ms: Median over blocks of the first image's time.
        energy_j: Median over blocks of the energy an image.
    """

    outcome: str
    reason: str | None
    latency: Summary | None
    peak_bytes: int | None
    stages_ms: dict[str, float]
    work: dict[str, int]
    prepare_ms: float | None
    first_ms: float | None
    energy_j: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One case: both arms, their ratio, their likeness, and what was published."""

    case: str
    baseline: ArmCell
    candidate: ArmCell
    speedup: Speedup | None
    fidelity: FidelityRecord | None
    published_original_s: float | None
    published_lyradiff_s: float | None

    @property
    def image_size(self) -> str:
        """LR size, WxH; the whole name of a case that is no size."""
        size = _SIZE.fullmatch(self.case)
        return f"{size[1]}x{size[2]}" if size else self.case

    @property
    def sr_ratio(self) -> str:
        """Scale factor as `x4`; a dash for a case that is no size."""
        size = _SIZE.fullmatch(self.case)
        return f"x{size[3]}" if size else "–"

    @property
    def input_pixels(self) -> int | None:
        """Pixels of the LR image, to sort by; None for a case that is no size."""
        size = _SIZE.fullmatch(self.case)
        return int(size[1]) * int(size[2]) if size else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One candidate arm against the baseline over all cases.

    Attributes:
        baseline, candidate: Names of the arms.
        roles: What columns call them: `baseline` and `optimized`, or of two revisions of one
            pipeline `base` and `head`, or of an A/A run `A` and `B`.
        rows: One a case.
        ratios: Case -> block -> d.
        geomean: Over the cases that were measured.
        geomean_cases: How many those are.
        remarks: What nobody may overlook who reads the times.
    """

    baseline: str
    candidate: str
    roles: tuple[str, str]
    rows: list[Row]
    ratios: dict[str, dict[int, float]]
    geomean: Speedup | None
    geomean_cases: int
    remarks: tuple[str, ...] = ()

    def cells(self) -> Iterator[tuple[Row, str, ArmCell]]:
        """Row, role and cell of both arms, case by case."""
        for row in self.rows:
            yield row, self.roles[0], row.baseline
            yield row, self.roles[1], row.candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportModel:
    """A run as the printers see it.

    Attributes:
        is_s3diff: Whether the arms are pipelines of S3Diff, for which times were published.
        limits_ms: Of `srbench roofline`; empty where it was not asked.
    """

    run: Run
    profile: Profile
    comparisons: list[Comparison]
    is_s3diff: bool
    limits_ms: StoredLimits = field(default_factory=dict)

    @property
    def synthetic(self) -> bool:
        """Whether a network was measured that was not trained: times are real, pictures are not."""
        return bool(self.run.head.weights.get("synthetic")) and not self.simulated

    @property
    def simulated(self) -> bool:
        """Whether a fake device was measured: no number here is of a machine."""
        return self.run.head.purpose == "simulation"

    @property
    def label(self) -> str:
        """What captions and figure titles carry: precision, SIMULATED or SYNTHETIC where so."""
        words = [self.profile.title, self.run.head.precision]
        if self.simulated:
            words.append("SIMULATED")
        if self.synthetic:
            words.append("SYNTHETIC weights")
        return ", ".join(words)

    @property
    def memory_metric(self) -> str:
        """The stored name of the memory number shown."""
        return memory_metric(self.run)


def build_model(run: Run, limits_ms: StoredLimits | None = None) -> ReportModel:
    """Derive everything that a report of this run shows; `limits_ms` as of the model."""
    profile = profile_or_bare(run.head.profile)
    is_s3diff = _is_s3diff(run)
    if not is_s3diff:  # what was published for cards are times of S3Diff
        profile = replace(profile, original_s={}, lyradiff_s={})
    comparisons = [_comparison(run, arm, profile) for arm in _shown(run)]
    return ReportModel(
        run=run,
        profile=profile,
        comparisons=comparisons,
        is_s3diff=is_s3diff,
        limits_ms=limits_ms or {},
    )


def _is_s3diff(run: Run) -> bool:
    arm = baseline_arm(run)
    return _system(run.head.arms.get(arm, {}).get("pipeline", arm)) == S3DIFF


@lru_cache(maxsize=256)
def _system(pipeline: str) -> System:
    """Looked up once: a fleet's thousand runs name the same few, and entry points are files."""
    return recorded_system(pipeline)


def _shown(run: Run) -> list[str]:
    """Candidates with tables of their own; of a ladder what the defaults amount to."""
    candidates = candidate_arms(run)
    if not run.head.ladder:
        return candidates
    ladder = map(LadderArm.from_record, run.head.ladder)
    return [arm.name for arm in ladder if not arm.on_top and arm.name in candidates][-1:]


def block_count(run: Run) -> int:
    """Blocks with any result."""
    return len({cell.block for cell in run.cells})


def _comparison(run: Run, candidate: str, profile: Profile) -> Comparison:
    ratios = {case: block_log_ratios(run, case, candidate) for case in run.head.cases}
    rows = [
        Row(
            case=case,
            baseline=arm_cell(run, case, baseline_arm(run)),
            candidate=arm_cell(run, case, candidate),
            speedup=speedup(list(ratios[case].values())),
            fidelity=record_of(run, case, candidate),
            published_original_s=profile.original_s.get(case),
            published_lyradiff_s=profile.lyradiff_s.get(case),
        )
        for case in run.head.cases
    ]
    measured = [row.case for row in rows if row.speedup is not None]
    return Comparison(
        baseline=baseline_arm(run),
        candidate=candidate,
        roles=_roles(run, candidate),
        rows=rows,
        ratios=ratios,
        geomean=speedup(geometric_mean_blocks([ratios[case] for case in measured])),
        geomean_cases=len(measured),
        remarks=_remarks(run, candidate),
    )


def _remarks(run: Run, candidate: str) -> tuple[str, ...]:
    """A pipeline that simulates its arithmetic says so in its decisions."""
    cells = (cell for case in run.head.cases for cell in cells_of(run, case, candidate))
    if any(cell.decisions.get("arithmetic", "").startswith("simulated") for cell in cells):
        return (f"{candidate} simulates its arithmetic: its pictures count, its times do not.",)
    return ()


def _roles(run: Run, candidate: str) -> tuple[str, str]:
    if run.head.purpose == "aa":
        return baseline_arm(run), candidate
    return ("base", "head") if same_pipeline(run.head, candidate) else ("baseline", "optimized")


def arm_cell(run: Run, case: str, arm: str) -> ArmCell:
    """What one arm did in one case."""
    cells = cells_of(run, case, arm)
    bad = next((cell for cell in cells if cell.outcome != "ok"), None)
    good = [cell for cell in cells if cell.outcome == "ok"]
    outcome, reason = ("ok", None) if bad is None else (bad.outcome, bad.reason)
    if not cells:
        outcome, reason = "not measured", None
    return ArmCell(
        outcome=outcome,
        reason=reason,
        latency=summarize(latencies_ms(run, case, arm)),
        peak_bytes=peak_bytes(run, case, arm),
        stages_ms=_stages_ms(stages_ms(run, case, arm)),
        work=work_counters(run, case, arm),
        prepare_ms=_median(cell.prepare_ms for cell in good),
        first_ms=_median(cell.warmup_ms[0] for cell in good if cell.warmup_ms),
        energy_j=_median(cell.energy_j for cell in good),
    )


def _stages_ms(times: dict[str, list[float]]) -> dict[str, float]:
    """Medians, in execution order."""
    order = [name for name in STAGES if name in times] + sorted(times.keys() - set(STAGES))
    return {name: median(times[name]) for name in order}


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
