"""Does an image cost more energy than it did."""

from __future__ import annotations

from collections.abc import Mapping
from math import exp, isfinite, log, log1p

from srbench.gate.checks import Check, Question, Verdict
from srbench.gate.comparable import Level, Yardstick
from srbench.gate.policy import Policy
from srbench.gate.ratios import exponentiated
from srbench.records import Run
from srbench.stats.effects import Effect, one_sample, pooled_difference
from srbench.stats.runs import cells_of
from srbench.stats.sequential import decide, look_for

METRIC = "energy_j"
DISAGREEMENT = 0.05
"""Counter and integral of polled power measure the same joules: farther apart, one is wrong."""


def joules(run: Run, case: str, arm: str) -> dict[int, float]:
    """Block -> gross joules an image. A zero is no measurement: no card draws nothing."""
    return {
        cell.block: cell.energy_j
        for cell in cells_of(run, case, arm)
        if cell.outcome == "ok"
        and cell.energy_j is not None
        and isfinite(cell.energy_j)
        and cell.energy_j > 0
    }


def energy_checks(
    run: Run, arms: Mapping[str, Yardstick], cases: list[str], policy: Policy
) -> list[Check]:
    """Energy an image of each arm against its yardstick's, at most `energy_margin` more.

    Where energy was measured in several blocks the rule of the latency decides (the growth must be
    proven to fail, and all cells of an arm share the error budget). One window has no interval: it
    is an average over ten seconds or more and is judged as it stands.

    Args:
        run: The run under judgement.
        arms: Arm -> what it is held against.
        cases: That both sides have.
        policy: For `energy_margin`.
    """
    sides = [(run, arm) for arm in arms] + [(held.run, held.arm) for held in arms.values()]
    if not any(joules(each, case, arm) for each, arm in sides for case in cases):
        text = f"energy was measured on neither side: no energy counter on {run.head.device}"
        return [Question("run", "", METRIC).unmeasured(text, verdict=Verdict.SKIPPED)]
    return [
        check
        for arm, yardstick in arms.items()
        for check in _arm_checks(run, arm, yardstick, cases, policy)
    ]


def energy_warnings(run: Run) -> list[str]:
    """One line an arm whose counter and polled power disagree."""
    warnings = []
    for arm in run.head.pipelines:
        gap, case = max(
            ((_gap(run, case, arm), case) for case in run.head.cases), default=(0.0, "")
        )
        if gap > DISAGREEMENT:
            warnings.append(
                f"energy of {arm}: counter and polled power differ by {100 * gap:.0f} % in {case}; "
                "trust neither to 5 %"
            )
    return warnings


def _gap(run: Run, case: str, arm: str) -> float:
    """Largest relative distance of the two measurements of one window."""
    return max(
        (
            abs(polled / gross - 1)
            for cell in cells_of(run, case, arm)
            if (gross := cell.energy.get("gross_j")) and (polled := cell.energy.get("polled_j"))
        ),
        default=0.0,
    )


def _arm_checks(
    run: Run, arm: str, yardstick: Yardstick, cases: list[str], policy: Policy
) -> list[Check]:
    if yardstick.environment.level is not Level.EXACT:
        why = "; ".join(yardstick.environment.lines(yardstick.name))
        text = f"energy of {arm} is not held against {yardstick.name}: {why}"
        return [Question("run", arm, METRIC).answer(Verdict.SKIPPED, "other_environment", text)]
    checks, effects = [], {}
    for case in cases:
        ours, theirs = joules(run, case, arm), joules(yardstick.run, case, yardstick.arm)
        if ours and theirs:
            effects[case] = _effect(ours, theirs, paired=yardstick.run is run)
            continue
        who = "this run" if not ours else yardstick.name
        text = f"energy {case} {arm} was not measured in {who}"
        # What only the promoted run lacks could not have been asked of this one.
        verdict = Verdict.SKIPPED if ours or not theirs else Verdict.INCONCLUSIVE
        checks.append(Question(case, arm, METRIC).unmeasured(text, verdict=verdict))
    return checks + _judged(effects, arm, yardstick.name, policy)


def _effect(ours: Mapping[int, float], theirs: Mapping[int, float], *, paired: bool) -> Effect:
    shared = sorted(ours.keys() & theirs.keys())
    if paired and shared:
        return one_sample([log(ours[block] / theirs[block]) for block in shared])
    return pooled_difference(
        [log(value) for value in ours.values()], [log(value) for value in theirs.values()]
    )


def _judged(effects: Mapping[str, Effect], arm: str, name: str, policy: Policy) -> list[Check]:
    if not effects:
        return []
    margins = {case: policy.for_case(case).energy_margin for case in effects}
    look = look_for(min(effect.blocks for effect in effects.values()))
    decisions = decide(effects, {case: log1p(margins[case]) for case in effects}, look)
    checks = []
    for case, effect in effects.items():
        value, decision = exp(effect.estimate) - 1, decisions[case]
        bounds = exponentiated(effect.interval())
        text = f"energy {case} {arm} {100 * value:+.1f} % an image against {name}"
        verdict, improved = Verdict(decision.verdict), decision.improved
        if bounds is None:
            verdict = Verdict.FAIL if value > margins[case] else Verdict.PASS
            text += f", one window, margin {100 * margins[case]:g} %"
        else:
            text += f" (95 % {100 * (bounds[0] - 1):+.1f}..{100 * (bounds[1] - 1):+.1f} %"
            text += f", margin {100 * margins[case]:g} %)"
        codes = {Verdict.PASS: "within_limits", Verdict.FAIL: "more_energy"}
        checks.append(
            Question(case, arm, METRIC).answer(
                verdict,
                codes.get(verdict, "not_proven"),
                text,
                value=value,
                threshold=margins[case],
                interval=None if bounds is None else (bounds[0] - 1, bounds[1] - 1),
                improved=improved,
            )
        )
    return checks
