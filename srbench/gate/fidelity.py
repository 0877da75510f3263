"""Is the picture still the same: tier limits, and no worse than the promoted run."""

from __future__ import annotations

from srbench.fidelity.roles import FP32
from srbench.gate.checks import Check, Question, Verdict
from srbench.gate.comparable import Yardstick
from srbench.gate.policy import Policy, TierLimits
from srbench.records import FidelityRecord, Run
from srbench.stats.runs import baseline_arm

SATURATED_DB = 60.0
"""Above this a PSNR only counts a few flipped roundings (one value in fifteen off by one level), so
two runs that both exceed it are equal."""

_EPS = "eps_relative_l2"


def find_record(run: Run, case: str, arm: str, reference: str) -> FidelityRecord | None:
    """The last record that holds the arm against an arm or role; None without one."""
    found = [
        record
        for record in run.fidelity
        if (record.case, record.pipeline, record.reference) == (case, arm, reference)
    ]
    return found[-1] if found else None


def record_of(run: Run, case: str, candidate: str) -> FidelityRecord | None:
    """The last record that holds the arm against the run's baseline; None without one."""
    return find_record(run, case, candidate, baseline_arm(run))


def precision_records(
    run: Run, case: str, candidate: str, metric: str
) -> tuple[FidelityRecord, FidelityRecord] | None:
    """Candidate and baseline against the float32 reference, where both have the metric."""
    ours, theirs = (find_record(run, case, arm, FP32) for arm in (candidate, baseline_arm(run)))
    if ours is None or theirs is None or metric not in ours.metrics.keys() & theirs.metrics.keys():
        return None
    return ours, theirs


def tier_checks(run: Run, candidate: str, policy: Policy) -> list[Check]:
    """Every case's metrics against the limits of the arm's tier; the worst case decides.

    The error of the noise prediction is held between the arms only where nothing was computed in
    float32: two arms that round on their own are farther apart than either from the truth, so the
    comparison with float32 (`srbench.gate.precision`) replaces this one and has the last word.
    """
    tier = run.head.tiers.get(candidate, "")
    limits = policy.tiers.get(tier)
    checks: list[Check] = []
    for case in run.head.cases:
        question = Question(case, candidate, "psnr")
        if limits is None:
            text = f"psnr {case} cannot be judged: {candidate} declares no known tier ('{tier}')"
            checks.append(question.unmeasured(text))
            continue
        record = record_of(run, case, candidate)
        if record is None:
            text = f"psnr {case} of {candidate} was not measured"
            checks.append(question.unmeasured(text, threshold=limits.psnr_db))
        elif record.outcome != "ok":
            text = f"fidelity {case} of {candidate}: {record.outcome}{_reason(record.reason)}"
            broken = Verdict.FAIL if record.outcome == "invalid" else Verdict.ERROR
            checks.append(question.answer(broken, record.outcome, text, threshold=limits.psnr_db))
        else:
            by_reference = precision_records(run, case, candidate, _EPS) is not None
            found = _record_checks(record, limits, tier, policy.for_case(case))
            checks += [check for check in found if check.metric != _EPS or not by_reference]
    return checks


def promoted_checks(
    run: Run, candidate: str, yardstick: Yardstick, cases: list[str], policy: Policy
) -> list[Check]:
    """PSNR against the promoted run's, within the policy's `psnr_drop_db`."""
    checks: list[Check] = []
    for case in cases:
        ours = record_of(run, case, candidate)
        theirs = record_of(yardstick.run, case, yardstick.arm)
        question = Question(case, candidate, "psnr_vs_promoted")
        if ours is None or "psnr" not in ours.metrics:
            continue  # an open question already, of the tier checks
        if theirs is None or "psnr" not in theirs.metrics:
            text = f"psnr {case} was not measured in {yardstick.name}"
            checks.append(question.unmeasured(text, verdict=Verdict.SKIPPED))
            continue
        value, promoted = ours.metrics["psnr"], theirs.metrics["psnr"]
        limit = min(promoted, SATURATED_DB) - policy.for_case(case).psnr_drop_db
        text = f"psnr {case} {value:.1f} dB, {yardstick.name} has {promoted:.1f} dB"
        checks.append(
            question.holds(value >= limit, "below_limit", text, value=value, threshold=limit)
        )
    return checks


def _record_checks(
    record: FidelityRecord, limits: TierLimits, tier: str, policy: Policy
) -> list[Check]:
    rules: list[tuple[str, float | None, bool, bool, str]] = [
        ("psnr", limits.psnr_db, True, True, " dB"),
        ("worst_block_psnr", limits.worst_block_db, True, True, " dB"),
        ("lpips", limits.lpips, False, policy.require_lpips, ""),
        (_EPS, limits.eps_relative_l2, False, False, ""),
    ]
    checks: list[Check] = []
    for metric, limit, higher_is_better, required, unit in rules:
        if limit is None:
            continue
        question = Question(record.case, record.pipeline, metric)
        label = metric if metric != "worst_block_psnr" else "worst 64x64 block"
        value = record.metrics.get(metric)
        if value is None:
            why = _reason(record.not_measured.get(metric))
            text = f"{label} {record.case} was not measured{why}"
            verdict = Verdict.INCONCLUSIVE if required else Verdict.SKIPPED
            checks.append(question.unmeasured(text, verdict=verdict, threshold=limit))
            continue
        good = value >= limit if higher_is_better else value <= limit
        where = _place(record) if metric == "worst_block_psnr" else ""
        bound = "at least" if higher_is_better else "at most"
        text = (
            f"{label} {record.case} {value:.4g}{unit}{where}, "
            f"tier {tier} needs {bound} {limit:g}{unit}"
        )
        bad_code = "below_limit" if higher_is_better else "above_limit"
        checks.append(question.holds(good, bad_code, text, value=value, threshold=limit))
    return checks


def _place(record: FidelityRecord) -> str:
    if record.worst_block is None:
        return ""
    return f" at row {record.worst_block[0]}, column {record.worst_block[1]}"


def _reason(reason: str | None) -> str:
    return f": {reason}" if reason else ""
