"""Is the picture still the same: tier limits, and no worse than the promoted run."""

from __future__ import annotations

from collections.abc import Callable

from srbench.gate.checks import Check, Verdict
from srbench.gate.policy import Policy, TierLimits
from srbench.records import FidelityRecord, Run
from srbench.stats.runs import baseline_arm

SATURATED_DB = 60.0
"""Above this a PSNR only counts a few flipped roundings (one value in fifteen off by one level), so
two runs that both exceed it are equal."""


def record_of(run: Run, case: str, candidate: str) -> FidelityRecord | None:
    """The last record that holds the arm against the run's baseline; None without one."""
    reference = baseline_arm(run)
    found = [
        record
        for record in run.fidelity
        if record.case == case and record.pipeline == candidate and record.reference == reference
    ]
    return found[-1] if found else None


def tier_checks(run: Run, candidate: str, policy: Policy) -> list[Check]:
    """Every case's metrics against the limits of the arm's tier; the worst case decides."""
    tier = run.head.tiers.get(candidate, "")
    limits = policy.tiers.get(tier)
    checks: list[Check] = []
    for case in run.head.cases:
        build = _builder(case, candidate)
        if limits is None:
            text = f"psnr {case} cannot be judged: {candidate} declares no known tier ('{tier}')"
            checks.append(build("psnr", None, None, Verdict.INCONCLUSIVE, "not_measured", text))
            continue
        record = record_of(run, case, candidate)
        if record is None:
            text = f"psnr {case} of {candidate} was not measured"
            checks.append(
                build("psnr", None, limits.psnr_db, Verdict.INCONCLUSIVE, "not_measured", text)
            )
        elif record.outcome != "ok":
            text = f"fidelity {case} of {candidate}: {record.outcome}{_reason(record.reason)}"
            broken = Verdict.FAIL if record.outcome == "invalid" else Verdict.ERROR
            checks.append(build("psnr", None, limits.psnr_db, broken, record.outcome, text))
        else:
            checks += _record_checks(record, limits, tier, policy.for_case(case), build)
    return checks


def promoted_checks(
    run: Run,
    candidate: str,
    reference: Run,
    reference_arm: str,
    cases: list[str],
    policy: Policy,
    name: str,
) -> list[Check]:
    """PSNR against the promoted run's, within the policy's `psnr_drop_db`."""
    checks: list[Check] = []
    for case in cases:
        ours = record_of(run, case, candidate)
        theirs = record_of(reference, case, reference_arm)
        build = _builder(case, candidate)
        if ours is None or "psnr" not in ours.metrics:
            continue  # an open question already, of the tier checks
        if theirs is None or "psnr" not in theirs.metrics:
            text = f"psnr {case} was not measured in {name}"
            checks.append(
                build("psnr_vs_promoted", None, None, Verdict.SKIPPED, "not_measured", text)
            )
            continue
        value, promoted = ours.metrics["psnr"], theirs.metrics["psnr"]
        limit = min(promoted, SATURATED_DB) - policy.for_case(case).psnr_drop_db
        good = value >= limit
        text = f"psnr {case} {value:.1f} dB, {name} has {promoted:.1f} dB"
        checks.append(
            build(
                "psnr_vs_promoted",
                value,
                limit,
                Verdict.PASS if good else Verdict.FAIL,
                "within_limits" if good else "below_limit",
                text,
            )
        )
    return checks


_Build = Callable[[str, float | None, float | None, Verdict, str, str], Check]


def _builder(case: str, candidate: str) -> _Build:
    def build(
        metric: str,
        value: float | None,
        threshold: float | None,
        verdict: Verdict,
        reason_code: str,
        message: str,
    ) -> Check:
        return Check(
            case=case,
            pipeline=candidate,
            metric=metric,
            value=value,
            threshold=threshold,
            verdict=verdict,
            reason_code=reason_code,
            message=message,
        )

    return build


def _record_checks(
    record: FidelityRecord, limits: TierLimits, tier: str, policy: Policy, build: _Build
) -> list[Check]:
    rules: list[tuple[str, float | None, bool, bool, str]] = [
        ("psnr", limits.psnr_db, True, True, " dB"),
        ("worst_block_psnr", limits.worst_block_db, True, True, " dB"),
        ("lpips", limits.lpips, False, policy.require_lpips, ""),
        ("eps_relative_l2", limits.eps_relative_l2, False, False, ""),
    ]
    checks: list[Check] = []
    for metric, limit, higher_is_better, required, unit in rules:
        if limit is None:
            continue
        label = metric if metric != "worst_block_psnr" else "worst 64x64 block"
        value = record.metrics.get(metric)
        if value is None:
            why = _reason(record.not_measured.get(metric))
            text = f"{label} {record.case} was not measured{why}"
            verdict = Verdict.INCONCLUSIVE if required else Verdict.SKIPPED
            checks.append(build(metric, None, limit, verdict, "not_measured", text))
            continue
        good = value >= limit if higher_is_better else value <= limit
        where = _place(record) if metric == "worst_block_psnr" else ""
        bound = "at least" if higher_is_better else "at most"
        text = (
            f"{label} {record.case} {value:.4g}{unit}{where}, "
            f"tier {tier} needs {bound} {limit:g}{unit}"
        )
        bad_code = "below_limit" if higher_is_better else "above_limit"
        verdict = Verdict.PASS if good else Verdict.FAIL
        code = "within_limits" if good else bad_code
        checks.append(build(metric, value, limit, verdict, code, text))
    return checks


def _place(record: FidelityRecord) -> str:
    if record.worst_block is None:
        return ""
    return f" at row {record.worst_block[0]}, column {record.worst_block[1]}"


def _reason(reason: str | None) -> str:
    return f": {reason}" if reason else ""
