"""Is the candidate fast enough: against its own baseline, or against a promoted run's ratio."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, log
from statistics import fmean

from srbench.gate.checks import Check, Verdict
from srbench.gate.policy import Policy
from srbench.records import Run
from srbench.stats.effects import Effect, one_sample, pooled_difference, welch_difference
from srbench.stats.runs import block_log_ratios
from srbench.stats.sequential import Decision, Look, decide, look_for
from srbench.stats.speedup import geometric_mean_blocks

GEOMEAN = "geomean"


def speedup_checks(run: Run, candidate: str, policy: Policy) -> list[Check]:
    """Speed-up of every case, and of their geometric mean, against `min_speedup`."""
    cells = _cells(run, candidate, run.head.cases)
    required = {case: policy.for_case(case).min_speedup for case in cells}
    effects = {
        case: one_sample(list(ratios.values())).shifted(log(required[case]))
        for case, ratios in cells.items()
    }
    if blocks := _geomean_blocks(cells):
        required[GEOMEAN] = exp(fmean(log(required[case]) for case in cells))
        effects[GEOMEAN] = one_sample(blocks).shifted(log(required[GEOMEAN]))
    open_checks = [
        _unmeasured(case, candidate, "speedup", f"speed-up {case}: no timed pair of both arms")
        for case in run.head.cases
        if case not in cells
    ]
    if not effects:
        return open_checks
    look = look_for(min(effect.blocks for effect in effects.values()))
    decisions = decide(effects, dict.fromkeys(effects, 0.0), look)
    return open_checks + [
        _speedup_check(key, candidate, effects[key], required[key], decisions[key])
        for key in effects
    ]


def regression_checks(
    run: Run,
    candidate: str,
    reference: Run,
    reference_arm: str,
    cases: list[str],
    policy: Policy,
    name: str,
) -> list[Check]:
    """Candidate / baseline of this run against the same ratio of the promoted run."""
    ours = _cells(run, candidate, cases)
    theirs = _cells(reference, reference_arm, cases)
    shared = [case for case in cases if case in ours and case in theirs]
    pairs = {case: (list(ours[case].values()), list(theirs[case].values())) for case in shared}
    geomeans = [_geomean_blocks({case: side[case] for case in shared}) for side in (ours, theirs)]
    if all(geomeans):
        pairs[GEOMEAN] = (geomeans[0], geomeans[1])
    open_checks = [
        _unmeasured(
            case,
            candidate,
            "latency",
            f"latency {case}: no timed pair of both arms in {'this run' if mine else name}",
        )
        for case in cases
        if (mine := case not in ours) or case not in theirs
    ]
    if not pairs:
        return open_checks
    fewest = min(min(len(a), len(b)) for a, b in pairs.values())
    # The look is this run's; a promoted run with very few blocks only makes it a fixed one.
    look = look_for(fewest)
    if not look.fixed:
        look = look_for(min(len(a) for a, _ in pairs.values()))
    difference = pooled_difference if look.fixed else welch_difference
    effects = {key: difference(a, b) for key, (a, b) in pairs.items()}
    margins = {
        key: policy.margin if key == GEOMEAN else policy.for_case(key).margin for key in effects
    }
    decisions = decide(effects, {key: log(1 + margin) for key, margin in margins.items()}, look)
    return open_checks + [
        _regression_check(key, candidate, effects[key], margins[key], decisions[key], look, name)
        for key in effects
    ]


def _cells(run: Run, candidate: str, cases: list[str]) -> dict[str, dict[int, float]]:
    found = {case: block_log_ratios(run, case, candidate) for case in cases}
    return {case: ratios for case, ratios in found.items() if ratios}


def _geomean_blocks(cells: Mapping[str, Mapping[int, float]]) -> list[float]:
    """Block means over cells; with a single cell the mean would only repeat it."""
    return geometric_mean_blocks(list(cells.values())) if len(cells) > 1 else []


def _unmeasured(case: str, candidate: str, metric: str, message: str) -> Check:
    return Check(
        case=case,
        pipeline=candidate,
        metric=metric,
        value=None,
        threshold=None,
        verdict=Verdict.INCONCLUSIVE,
        reason_code="not_measured",
        message=message,
    )


def _speedup_check(
    case: str, candidate: str, effect: Effect, required: float, decision: Decision
) -> Check:
    value = required * exp(-effect.estimate)
    interval = _exponentiated(effect.interval(), -1.0, required)
    verdict = Verdict(decision.verdict)
    if verdict is Verdict.PASS and effect.estimate > 0:
        # A speed-up is a claim, not a tolerance: few blocks may not excuse missing it.
        verdict = Verdict.INCONCLUSIVE
    text = f"speed-up {case} {value:.2f}x{_percent_free(interval)}"
    reason = {
        Verdict.PASS: "within_limits",
        Verdict.FAIL: "below_min_speedup",
    }.get(verdict, "too_few_blocks" if effect.standard_error is None else "not_proven")
    relation = {
        Verdict.PASS: f", at least {required:g}x",
        Verdict.FAIL: f" is below {required:g}x",
    }.get(verdict, f" is not proven to reach {required:g}x{_why(effect)}")
    return Check(
        case=case,
        pipeline=candidate,
        metric="speedup",
        value=value,
        threshold=required,
        interval=interval,
        verdict=verdict,
        reason_code=reason,
        message=text + relation,
    )


def _regression_check(
    case: str,
    candidate: str,
    effect: Effect,
    margin: float,
    decision: Decision,
    look: Look,
    name: str,
) -> Check:
    value = exp(effect.estimate) - 1
    bounds = _exponentiated(effect.interval(), 1.0, 1.0)
    interval = None if bounds is None else (bounds[0] - 1, bounds[1] - 1)
    verdict = Verdict(decision.verdict)
    text = f"latency {case} {_slower(value)} than {name}"
    if interval is not None:
        text += f" (95 % {100 * interval[0]:+.0f}..{100 * interval[1]:+.0f} %"
        text += f", margin {100 * margin:g} %)"
    reason = {Verdict.PASS: "within_limits", Verdict.FAIL: "slower"}.get(verdict, "not_proven")
    if effect.standard_error is None:
        reason = "too_few_blocks"
        text += _why(effect)
    elif verdict is Verdict.INCONCLUSIVE:
        text += ": within the noise, more blocks needed"
    elif verdict is Verdict.PASS and look.fixed and decision.excluded is not None:
        excluded = 100 * (exp(decision.excluded) - 1)
        text += f": no slow-down proven, {effect.blocks} blocks exclude more than {excluded:.0f} %"
    return Check(
        case=case,
        pipeline=candidate,
        metric="latency",
        value=value,
        threshold=margin,
        interval=interval,
        verdict=verdict,
        reason_code=reason,
        message=text,
    )


def _exponentiated(
    interval: tuple[float, float] | None, sign: float, factor: float
) -> tuple[float, float] | None:
    if interval is None:
        return None
    low, high = sorted(factor * exp(sign * end) for end in interval)
    return low, high


def _slower(value: float) -> str:
    return f"{100 * value:+.0f} % slower" if value >= 0 else f"{-100 * value:.0f} % faster"


def _percent_free(interval: tuple[float, float] | None) -> str:
    return "" if interval is None else f" (95 % {interval[0]:.2f}..{interval[1]:.2f})"


def _why(effect: Effect) -> str:
    return ": one block has no interval" if effect.standard_error is None else ""
