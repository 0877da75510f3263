"""Has the candidate become slower: than a promoted run's ratio, or than its own base revision.

Every family of questions (the ratios, and apart from them the absolute times where the policy asks)
gets the whole alpha of the look and is corrected by Holm over its cells and geometric mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import exp, isfinite, log
from statistics import median

from srbench.gate.checks import Check, Question, Verdict
from srbench.gate.comparable import Level, Yardstick
from srbench.gate.policy import Policy
from srbench.gate.ratios import exponentiated, why_too_few
from srbench.records import Run
from srbench.stats.effects import Effect, one_sample, pooled_difference, welch_difference
from srbench.stats.runs import GEOMEAN, cells_of, measured_ratios, times_ms, with_geomean
from srbench.stats.sequential import Decision, Look, decide, look_against, look_for


def paired_checks(run: Run, candidate: str, policy: Policy, name: str) -> list[Check]:
    """The candidate against the baseline arm of the same run, another revision of its pipeline.

    Both were interleaved, so that the block ratios alone decide: the strongest of the comparisons.
    """
    cells = measured_ratios(run, candidate, run.head.cases)
    effects = {key: one_sample(values) for key, values in with_geomean(cells).items()}
    open_checks = [
        Question(case, candidate, "latency").unmeasured(
            f"latency {case}: no timed pair of both arms"
        )
        for case in run.head.cases
        if case not in cells
    ]
    if not effects:
        return open_checks
    look = look_for(len(run.finished_blocks))
    return open_checks + _judged(effects, _margins(effects, policy), look, candidate, name)


def promoted_checks(
    run: Run, candidate: str, yardstick: Yardstick, cases: list[str], policy: Policy
) -> list[Check]:
    """Candidate / baseline of this run against the same ratio of the promoted run."""
    ours = measured_ratios(run, candidate, cases)
    theirs = measured_ratios(yardstick.run, yardstick.arm, cases)
    shared = [case for case in cases if case in ours and case in theirs]
    sides = [with_geomean({case: side[case] for case in shared}) for side in (ours, theirs)]
    pairs = {key: (sides[0][key], sides[1][key]) for key in sides[0] if key in sides[1]}
    open_checks = [
        Question(case, candidate, "latency").unmeasured(
            f"latency {case}: no timed pair of both arms in "
            f"{'this run' if case not in ours else yardstick.name}"
        )
        for case in cases
        if case not in shared
    ]
    if not pairs:
        return open_checks
    look = _look(run, yardstick)
    effects = _differences(pairs, look)
    margins = _margins(effects, policy)
    return open_checks + _judged(effects, margins, look, candidate, yardstick.name)


def time_checks(
    run: Run, candidate: str, yardstick: Yardstick, cases: list[str], policy: Policy
) -> list[Check]:
    """The candidate's own median time against the promoted run's, where `time_margin` asks for it.

    A weak comparison: whatever differs between two sessions is in it. Only in exactly the same
    environment is it made at all.
    """
    margins = {case: policy.for_case(case).time_margin for case in cases}
    asked = {case: margin for case, margin in margins.items() if margin is not None}
    if yardstick.environment.level is not Level.EXACT:
        return [
            Question(case, candidate, "time").answer(
                Verdict.SKIPPED,
                "other_environment",
                f"time {case} of {candidate} is not held against {yardstick.name}: "
                + "; ".join(yardstick.environment.lines(yardstick.name)),
            )
            for case in asked
        ]
    sides = {
        case: (_log_times(run, case, candidate), _log_times(yardstick.run, case, yardstick.arm))
        for case in asked
    }
    pairs = {case: side for case, side in sides.items() if all(side)}
    open_checks = [
        Question(case, candidate, "time").unmeasured(f"time {case} of {candidate} was not measured")
        for case in asked
        if case not in pairs
    ]
    if not pairs:
        return open_checks
    look = _look(run, yardstick)
    effects = _differences(pairs, look)
    return open_checks + _judged(effects, asked, look, candidate, yardstick.name, metric="time")


def _look(run: Run, yardstick: Yardstick) -> Look:
    return look_against(len(run.finished_blocks), len(yardstick.run.finished_blocks))


def _differences(
    pairs: Mapping[str, tuple[Sequence[float], Sequence[float]]], look: Look
) -> dict[str, Effect]:
    difference = pooled_difference if look.fixed else welch_difference
    return {key: difference(ours, theirs) for key, (ours, theirs) in pairs.items()}


def _margins(effects: Mapping[str, Effect], policy: Policy) -> dict[str, float]:
    return {
        key: policy.margin if key == GEOMEAN else policy.for_case(key).margin for key in effects
    }


def _log_times(run: Run, case: str, arm: str) -> list[float]:
    """Log of the median time of each block."""
    return [
        log(middle)
        for cell in cells_of(run, case, arm)
        if cell.outcome == "ok" and cell.samples
        if (middle := median(times_ms(cell))) > 0 and isfinite(middle)
    ]


def _judged(
    effects: Mapping[str, Effect],
    margins: Mapping[str, float],
    look: Look,
    candidate: str,
    name: str,
    metric: str = "latency",
) -> list[Check]:
    decisions = decide(effects, {key: log(1 + margins[key]) for key in effects}, look)
    return [
        _check(Question(key, candidate, metric), effect, margins[key], decisions[key], look, name)
        for key, effect in effects.items()
    ]


def _check(
    question: Question, effect: Effect, margin: float, decision: Decision, look: Look, name: str
) -> Check:
    value = exp(effect.estimate) - 1
    bounds = exponentiated(effect.interval())
    interval = None if bounds is None else (bounds[0] - 1, bounds[1] - 1)
    verdict = Verdict(decision.verdict)
    text = f"{question.metric} {question.case} {_slower(value)} than {name}"
    if interval is not None:
        text += f" (95 % {100 * interval[0]:+.0f}..{100 * interval[1]:+.0f} %"
        text += f", margin {100 * margin:g} %)"
    reason = {Verdict.PASS: "within_limits", Verdict.FAIL: "slower"}.get(verdict, "not_proven")
    if too_few := why_too_few(effect, look):
        reason = "too_few_blocks"
        text += too_few
    elif verdict is Verdict.INCONCLUSIVE:
        text += ": within the noise, more blocks needed"
    elif verdict is Verdict.PASS and look.fixed and decision.excluded is not None:
        excluded = 100 * (exp(decision.excluded) - 1)
        text += f": no slow-down proven, {effect.blocks} blocks exclude more than {excluded:.0f} %"
    return question.answer(
        verdict,
        reason,
        text,
        value=value,
        threshold=margin,
        interval=interval,
        improved=decision.improved,
    )


def _slower(value: float) -> str:
    return f"{100 * value:+.0f} % slower" if value >= 0 else f"{-100 * value:.0f} % faster"
