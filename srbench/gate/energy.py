"""Does an image cost more energy than it did."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from srbench.gate.checks import Check, Question, Verdict
from srbench.gate.comparable import Level, Yardstick
from srbench.gate.policy import Policy
from srbench.records import Run
from srbench.stats.runs import cells_of

METRIC = "energy_j"
DISAGREEMENT = 0.05
"""Counter and integral of polled power measure the same joules: farther apart, one is wrong."""


def joules(run: Run, case: str, arm: str) -> float | None:
    """Gross joules an image, of the run's one window; None where it was not measured.

    A zero is no measurement: no card draws nothing.
    """
    windows = [
        cell.energy_j
        for cell in cells_of(run, case, arm)
        if cell.outcome == "ok"
        and cell.energy_j is not None
        and isfinite(cell.energy_j)
        and cell.energy_j > 0
    ]
    return windows[0] if windows else None


def energy_checks(
    run: Run, arms: Mapping[str, Yardstick], cases: list[str], policy: Policy
) -> list[Check]:
    """Energy an image of each arm against its yardstick's, at most `energy_margin` more.

    The point estimates are held as they stand, without an interval and outside the false-alarm
    budget of the times: energy is measured once a run, in the solo phase of the first block, and
    a window is an average over ten seconds or more. The margin must cover what two windows differ
    by; where counter and polled power disagree, `energy_warnings` says so.

    Args:
        run: The run under judgement.
        arms: Arm -> what it is held against.
        cases: That both sides have.
        policy: For `energy_margin`.
    """
    sides = [(run, arm) for arm in arms] + [(held.run, held.arm) for held in arms.values()]
    if all(joules(each, case, arm) is None for each, arm in sides for case in cases):
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
    return [
        _check(Question(case, arm, METRIC), run, yardstick, policy.for_case(case).energy_margin)
        for case in cases
    ]


def _check(question: Question, run: Run, yardstick: Yardstick, margin: float) -> Check:
    case, arm = question.case, question.pipeline
    ours, theirs = joules(run, case, arm), joules(yardstick.run, case, yardstick.arm)
    if ours is None or theirs is None:
        # Another window of the two runs has a number, so that this one should.
        who = "this run" if ours is None else yardstick.name
        return question.unmeasured(f"energy {case} {arm} was not measured in {who}")
    value = ours / theirs - 1
    text = f"energy {case} {arm} {100 * value:+.1f} % an image against {yardstick.name}"
    text += f", one window, margin {100 * margin:g} %"
    return question.holds(value <= margin, "more_energy", text, value=value, threshold=margin)
