"""What a ladder's report shows: of each rung the seconds, what it brought, and what it cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from srbench.fidelity.roles import FP32
from srbench.gate.fidelity import find_record
from srbench.ladder.arms import LadderArm
from srbench.records import FidelityRecord, Run
from srbench.report.model import ArmCell, arm_cell
from srbench.stats.runs import block_log_ratios
from srbench.stats.speedup import Speedup, speedup

OVER_BEFORE = "Over the one before"
"""What the speed-up over the last timed arm below is called in every table and figure."""

NOT_DECIDED = "not decided"
FIDELITY = ("psnr", "worst_block_psnr", "ssim", "lpips", "eps_relative_l2", "max_abs_diff")


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """One arm of a ladder in one case.

    Attributes:
        arm: Which.
        cell: Its times and memory.
        before: Name of the last arm below it that was timed in this case; None for the first.
        over_before: Speed-up over that arm, of the same blocks.
        over_baseline: Speed-up over the baseline; None without one.
        over_first: Speed-up over the first rung.
        predicted_s: Seconds that were predicted; None where nothing was.
        likeness: Its picture against that of the ladder's first arm.
        change: Its picture against that of the arm just before; None where that is the first arm
            or was not timed.
        exactness: Its picture against the first arm's in float32.
    """

    arm: LadderArm
    cell: ArmCell
    before: str | None
    over_before: Speedup | None
    over_baseline: Speedup | None
    over_first: Speedup | None
    predicted_s: float | None
    likeness: FidelityRecord | None
    change: FidelityRecord | None
    exactness: FidelityRecord | None

    @property
    def seconds(self) -> float | None:
        """Median seconds an image; None where any block failed."""
        if self.cell.outcome != "ok" or self.cell.latency is None:
            return None
        return self.cell.latency.median / 1000

    @property
    def verdict(self) -> str | None:
        """`faster` or `slower` than the one before where the interval excludes 1."""
        gain = self.over_before
        if gain is None:
            return None
        if gain.low is not None and gain.low > 1:
            return "faster"
        if gain.high is not None and gain.high < 1:
            return "slower"
        return NOT_DECIDED

    @property
    def predicted_over_measured(self) -> float | None:
        """Above 1 the arm is faster than it was predicted to be."""
        seconds = self.seconds
        return None if self.predicted_s is None or seconds is None else self.predicted_s / seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderCase:
    """A ladder in one case, the baseline first where there is one."""

    case: str
    standings: list[Standing]

    @property
    def first_rung(self) -> str:
        """Name of the first rung."""
        return next(each.arm.name for each in self.standings if each.arm.rung)


def ladder_cases(run: Run) -> list[LadderCase]:
    """Every case of a ladder; nothing for a run that is none.

    Raises:
        UsageError: The results file is damaged.
    """
    arms = [LadderArm.from_record(entry) for entry in run.head.ladder]
    if not arms:
        return []
    return [LadderCase(case=case, standings=_standings(run, case, arms)) for case in run.head.cases]


def ladder_json(run: Run) -> list[dict[str, Any]]:
    """Every case as `{"case", "baseline", "rungs"}`, unrounded; null for what is missing."""
    documents = []
    for each in ladder_cases(run):
        entries = [(standing.arm.rung, _entry(standing)) for standing in each.standings]
        baseline = next((entry for rung, entry in entries if not rung), None)
        rungs = [entry for rung, entry in entries if rung]
        documents.append({"case": each.case, "baseline": baseline, "rungs": rungs})
    return documents


def _standings(run: Run, case: str, arms: list[LadderArm]) -> list[Standing]:
    baseline = next((arm.name for arm in arms if not arm.rung), None)
    first = next((arm.name for arm in arms if arm.rung), None)
    bottom = arms[0].name
    found: list[Standing] = []
    for turn, arm in enumerate(arms):
        timed = [each.arm.name for each in found if each.seconds is not None]
        before = timed[-1] if timed else None
        below = before if turn > 1 and before == arms[turn - 1].name else None
        found.append(
            Standing(
                arm=arm,
                cell=arm_cell(run, case, arm.name),
                before=before,
                over_before=_over(run, case, arm, before),
                over_baseline=_over(run, case, arm, baseline),
                over_first=_over(run, case, arm, first if arm.rung else None),
                predicted_s=arm.predicted_s.get(case),
                likeness=find_record(run, case, arm.name, bottom),
                change=None if below is None else find_record(run, case, arm.name, below),
                exactness=find_record(run, case, arm.name, FP32),
            )
        )
    return found


def _over(run: Run, case: str, arm: LadderArm, reference: str | None) -> Speedup | None:
    if reference is None or reference == arm.name:
        return None
    return speedup(list(block_log_ratios(run, case, arm.name, reference).values()))


def _entry(standing: Standing) -> dict[str, Any]:
    arm, cell = standing.arm, standing.cell
    spread = cell.latency if standing.seconds is not None else None
    return {
        "name": arm.name,
        "title": arm.title,
        "options": arm.options,
        "on_top": arm.on_top,
        "outcome": cell.outcome,
        "reason": cell.reason,
        "seconds": standing.seconds,
        "mad_seconds": None if spread is None else spread.mad / 1000,
        "images": 0 if spread is None else spread.n,
        "over_previous": _ratio(standing.over_before, standing.before),
        "over_baseline": _ratio(standing.over_baseline),
        "over_first": _ratio(standing.over_first),
        "predicted_seconds": standing.predicted_s,
        "predicted_over_measured": standing.predicted_over_measured,
        "peak_bytes": cell.peak_bytes,
        "stages_ms": cell.stages_ms,
        "fidelity": _metrics(standing.likeness),
        "fidelity_to_previous": _metrics(standing.change),
        "fidelity_to_fp32": _metrics(standing.exactness),
    }


def _ratio(value: Speedup | None, reference: str | None = None) -> dict[str, Any] | None:
    if value is None:
        return None
    return {**asdict(value), **({"reference": reference} if reference else {})}


def _metrics(record: FidelityRecord | None) -> dict[str, Any] | None:
    if record is None:
        return None
    metrics = {name: record.metrics[name] for name in FIDELITY if name in record.metrics}
    return {"reference": record.reference, "outcome": record.outcome, **metrics}
