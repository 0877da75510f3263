"""Is the candidate as much faster than its run's own baseline, a different pipeline, as asked."""

from __future__ import annotations

from math import exp, log
from statistics import fmean

from srbench.gate.checks import Check, Question, Verdict
from srbench.gate.policy import Policy
from srbench.gate.ratios import exponentiated, why_too_few
from srbench.records import Run
from srbench.stats.effects import Effect, one_sample
from srbench.stats.runs import GEOMEAN, measured_ratios, with_geomean
from srbench.stats.sequential import Decision, Look, decide, look_for

METRIC = "speedup"


def speedup_checks(run: Run, candidate: str, policy: Policy) -> list[Check]:
    """Speed-up of every case, and of their geometric mean, against `min_speedup`."""
    cells = measured_ratios(run, candidate, run.head.cases)
    required = {case: policy.for_case(case).min_speedup for case in cells}
    if required:
        required[GEOMEAN] = exp(fmean(map(log, required.values())))
    effects = {
        key: one_sample(values).shifted(log(required[key]))
        for key, values in with_geomean(cells).items()
    }
    open_checks = [
        Question(case, candidate, METRIC).unmeasured(f"speed-up {case}: no timed pair of both arms")
        for case in run.head.cases
        if case not in cells
    ]
    if not effects:
        return open_checks
    look = look_for(len(run.finished_blocks))
    decisions = decide(effects, dict.fromkeys(effects, 0.0), look)
    return open_checks + [
        _check(Question(key, candidate, METRIC), effects[key], required[key], decisions[key], look)
        for key in effects
    ]


def _check(
    question: Question, effect: Effect, required: float, decision: Decision, look: Look
) -> Check:
    value = required * exp(-effect.estimate)
    interval = exponentiated(effect.interval(), -1.0, required)
    verdict = Verdict(decision.verdict)
    if verdict is Verdict.PASS and effect.estimate > 0:
        # A speed-up is a claim, not a tolerance: few blocks may not excuse missing it.
        verdict = Verdict.INCONCLUSIVE
    text = f"speed-up {question.case} {value:.2f}x"
    if interval is not None:
        text += f" (95 % {interval[0]:.2f}..{interval[1]:.2f})"
    too_few = why_too_few(effect, look)
    reason = {
        Verdict.PASS: "within_limits",
        Verdict.FAIL: "below_min_speedup",
    }.get(verdict, "too_few_blocks" if too_few else "not_proven")
    relation = {
        Verdict.PASS: f", at least {required:g}x",
        Verdict.FAIL: f" is below {required:g}x",
    }.get(verdict, f" is not proven to reach {required:g}x{too_few}")
    return question.answer(
        verdict, reason, text + relation, value=value, threshold=required, interval=interval
    )
