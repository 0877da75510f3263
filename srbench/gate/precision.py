"""No worse than the baseline's own precision: both arms against the baseline in float32.

The fairest of the picture checks: it needs no trained weights and no opinion on how close is close
enough, only that the candidate loses no more to rounding than the baseline does at this precision.
"""

from __future__ import annotations

from srbench.fidelity.roles import FP32
from srbench.gate.checks import Check, Question, Verdict
from srbench.gate.fidelity import SATURATED_DB, find_record, precision_records
from srbench.gate.policy import Policy
from srbench.records import FidelityRecord, Run
from srbench.stats.runs import baseline_arm

OWN_ERROR_SLACK = 1.1
"""Two roundings of one network differ by a few per cent in their distance from float32."""

_PSNR, _EPS = "psnr_vs_fp32", "eps_vs_fp32"
_DID_NOT_FIT = ("oom", "unsupported")
"""No float32 on this card or in this pipeline, however often it is asked; a time-out may be."""


def own_precision_checks(run: Run, candidate: str, policy: Policy) -> list[Check]:
    """PSNR and error of the noise prediction against float32, held against the baseline's own.

    PSNR(candidate, fp32) must reach PSNR(baseline, fp32) less `own_precision_drop_db`, before
    rounding to 8 bits where both arms have that, and counted up to 60 dB: beyond that nothing of it
    is left in the picture. The relative L2 error of eps may be `own_precision_eps`, or 1.1 times
    the baseline's own where that is more; it replaces the tier's limit between the arms, since the
    rounding of both is in the distance between them.

    A run in float32 has no such record: there the baseline is the reference. One in fp16 must have
    it. Callables of a test suite have a precision of their own and nothing to hold it against; a
    pipeline of tier `approx` computes another function, at any precision.
    """
    tier = policy.tiers.get(run.head.tiers.get(candidate, ""))
    if tier is not None and tier.eps_relative_l2 is None:
        return []  # approx: another function, held against the baseline's pictures alone
    checks: list[Check] = []
    for case in run.head.cases:
        ours, theirs = (find_record(run, case, arm, FP32) for arm in (candidate, baseline_arm(run)))
        if ours is None and theirs is None and run.head.precision != "fp16":
            continue
        question = Question(case, candidate, _PSNR)
        if (gap := _gap(question, ours, theirs)) is not None:
            checks.append(gap)
            continue
        checks.append(_psnr_check(run, question, policy.for_case(case)))
        if tier is not None:
            checks += _eps_checks(run, Question(case, candidate, _EPS), policy.for_case(case))
    return checks


def _gap(
    question: Question, ours: FidelityRecord | None, theirs: FidelityRecord | None
) -> Check | None:
    """The answer where one of the two comparisons with float32 is missing or went wrong.

    The candidate is at fault only where the baseline compares well with the same reference: where
    that is NaN, nothing compares with it.
    """
    what = f"fp32 reference of {question.case}"
    if ours is None and theirs is None:
        return question.unmeasured(f"{what}: not measured")
    reference_is_sound = theirs is not None and theirs.outcome == "ok"
    for record, who in ((ours, question.pipeline), (theirs, "the baseline")):
        if record is None:
            return question.unmeasured(f"{what}: {who} was not held against it")
        if record.outcome == "ok":
            continue
        text = f"{what}, {who}: {record.outcome}"
        text += f": {record.reason}" if record.reason else ""
        if record is ours and record.outcome == "invalid" and reference_is_sound:
            return question.answer(Verdict.FAIL, "invalid", text)
        # A card too small for float32 could never answer; the tier's limits hold without it.
        verdict = Verdict.SKIPPED if record.outcome in _DID_NOT_FIT else Verdict.INCONCLUSIVE
        return question.answer(verdict, record.outcome, text)
    return None


def _psnr_check(run: Run, question: Question, policy: Policy) -> Check:
    for metric in ("psnr_float", "psnr"):
        pair = precision_records(run, question.case, question.pipeline, metric)
        if pair is None:
            continue
        value, own = (record.metrics[metric] for record in pair)
        limit = min(own, SATURATED_DB) - policy.own_precision_drop_db
        text = (
            f"{metric} {question.case} {value:.1f} dB from fp32, the baseline's own precision is "
            f"{own:.1f} dB"
        )
        return question.holds(value >= limit, "below_limit", text, value=value, threshold=limit)
    return question.unmeasured(f"psnr {question.case} against fp32 was not measured")


def _eps_checks(run: Run, question: Question, policy: Policy) -> list[Check]:
    pair = precision_records(run, question.case, question.pipeline, "eps_relative_l2")
    if pair is None:
        return []  # the tier's limit between the arms holds
    value, own = (record.metrics["eps_relative_l2"] for record in pair)
    limit = max(policy.own_precision_eps, OWN_ERROR_SLACK * own)
    text = (
        f"eps_relative_l2 {question.case} {value:.3g} from fp32, at most {limit:.3g} "
        f"(the baseline's own is {own:.3g})"
    )
    return [question.holds(value <= limit, "above_limit", text, value=value, threshold=limit)]
