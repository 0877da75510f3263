"""Two runs side by side: their ratios, and how far they differ where that can be said."""

from __future__ import annotations

from math import exp

from srbench.gate.comparable import matching_arm, shared_cases
from srbench.records import Run
from srbench.report.model import Comparison, Row, build_model
from srbench.report.tables import plain_table
from srbench.report.text import ratio, seconds
from srbench.stats.effects import welch_difference
from srbench.stats.runs import block_log_ratios


def compare_table(first: Run, second: Run) -> str:
    """Times and speed-ups of the cases that both runs have.

    The last column, the candidate's change relative to its own baseline, is given only within
    one profile and precision: across devices there are tables, no verdict.

    Raises:
        NotComparableError: Other weights, other inputs, or no case in common.
    """
    names = f"run {first.head.run_id}", f"run {second.head.run_id}"
    cases = shared_cases(first, second, names[1])
    like = _unlike(first, second)
    lines = [
        f"A {names[0]}: {build_model(first).label}",
        f"B {names[1]}: {build_model(second).label}",
    ]
    theirs_by_arm = {each.candidate: each for each in build_model(second).comparisons}
    for ours in build_model(first).comparisons:
        theirs = theirs_by_arm[matching_arm(first, ours.candidate, second, names[1])]
        lines.append(f"\n{ours.candidate} against {ours.baseline}")
        lines.append(_table(first, second, ours, theirs, cases, with_change=like is None))
    if like is not None:
        lines.append(f"\nno verdict: other {like}")
    missing = [case for run in (first, second) for case in run.head.cases if case not in cases]
    if missing:
        lines.append(f"\nonly in one of the two: {', '.join(missing)}")
    return "\n".join(lines)


def _unlike(first: Run, second: Run) -> str | None:
    for what, a, b in (
        ("GPU", first.head.profile, second.head.profile),
        ("precision", first.head.precision, second.head.precision),
    ):
        if a != b:
            return f"{what}, {a} and {b}"
    return None


def _table(
    first: Run,
    second: Run,
    ours: Comparison,
    theirs: Comparison,
    cases: list[str],
    *,
    with_change: bool,
) -> str:
    header = ["case", "A baseline s", "A optimized s", "A speed-up"]
    header += ["B baseline s", "B optimized s", "B speed-up"]
    header += ["B's ratio to A's (95 %)"] if with_change else []
    rows = []
    left, right = ({row.case: row for row in each.rows} for each in (ours, theirs))
    for case in cases:
        line = [case, *_side(left[case]), *_side(right[case])]
        if with_change:
            line.append(_change(first, second, ours.candidate, theirs.candidate, case))
        rows.append(line)
    return plain_table(header, rows)


def _side(row: Row) -> list[str]:
    return [seconds(row.baseline), seconds(row.candidate), ratio(row.speedup)]


def _change(first: Run, second: Run, arm: str, other_arm: str, case: str) -> str:
    """Time of B's candidate over its baseline, relative to A's: above 0 % is slower."""
    before = list(block_log_ratios(first, case, arm).values())
    after = list(block_log_ratios(second, case, other_arm).values())
    if not before or not after:
        return "–"
    effect = welch_difference(after, before)
    text = f"{100 * (exp(effect.estimate) - 1):+.1f} %"
    interval = effect.interval()
    if interval is None:
        return f"{text} (n/a, 1 block)"
    low, high = (100 * (exp(end) - 1) for end in interval)
    return f"{text} ({low:+.1f}..{high:+.1f} %)"
