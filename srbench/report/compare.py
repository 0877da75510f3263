"""Two runs side by side: their ratios, and how far they differ where that can be said."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from math import exp
from typing import Any

from srbench.gate.comparable import Level, environment_of, matching_arm, shared_cases
from srbench.gate.resources import work_counters
from srbench.records import Run
from srbench.report.model import ArmCell, Row, build_model
from srbench.report.tables import plain_table
from srbench.report.text import ratio, seconds
from srbench.stats.effects import welch_difference
from srbench.stats.runs import baseline_arm, block_log_ratios, candidate_arms

_WORDS = {
    Level.EXACT: "the same environment: times, ratios, memory and energy may be compared",
    Level.COMPARABLE: "another patch level or machine: only ratios may be compared, times may not",
    Level.RATIO_ONLY: "another environment: tables side by side, no verdict",
}


@dataclass(frozen=True, slots=True)
class Change:
    """B's time ratio relative to A's, minus one: above zero is slower.

    Attributes:
        value: Point estimate, a fraction.
        low: Lower end of the 95 % interval; None with one block.
        high: Upper end of the 95 % interval; None with one block.
    """

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True, slots=True)
class CasePair:
    """One case in both runs."""

    case: str
    first: Row
    second: Row
    change: Change | None


@dataclass(frozen=True, slots=True)
class ArmPair:
    """A candidate in both runs, each against the baseline of its own run."""

    candidate: str
    baseline: str
    cases: list[CasePair]


@dataclass(frozen=True, slots=True)
class WorkDifference:
    """An exact counter in which the runs differ; None where one did not count it."""

    case: str
    arm: str
    counter: str
    first: int | None
    second: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPair:
    """What two runs have in common and what not.

    Attributes:
        first, second: The runs, A and B.
        level: How much of them may be held against each other.
        differences: What differs of environment and settings, one line each.
        arms: Candidates that both have; empty when a run has a single arm.
        work: Counters that differ.
        lonely: Cases that only one of the two has.
    """

    first: Run
    second: Run
    level: Level
    differences: list[str]
    arms: list[ArmPair]
    work: list[WorkDifference]
    lonely: list[str]


def compare(first: Run, second: Run) -> RunPair:
    """Set two runs side by side.

    Raises:
        NotComparableError: Other weights, other inputs, or no case in common; or an arm of A that
            B has not.
    """
    name = f"run {second.head.run_id}"
    cases = shared_cases(first, second, name)
    environment = environment_of(first, second)
    settings = _settings(first, second)
    level = Level.RATIO_ONLY if settings else environment.level
    both = bool(candidate_arms(first)) and bool(candidate_arms(second))
    ours = build_model(first).comparisons if both else []
    theirs = {each.candidate: each.rows for each in build_model(second).comparisons}
    arms = []
    for each in ours:
        other = matching_arm(first, each.candidate, second, name)
        rows = {row.case: row for row in theirs[other]}
        pairs = [
            CasePair(
                row.case,
                row,
                rows[row.case],
                None
                if level is Level.RATIO_ONLY
                else _change(first, second, each.candidate, other, row.case),
            )
            for row in each.rows
            if row.case in cases
        ]
        arms.append(ArmPair(each.candidate, each.baseline, pairs))
    return RunPair(
        first=first,
        second=second,
        level=level,
        differences=[*settings, *_names(first, second), *environment.lines("B")],
        arms=arms,
        work=_work(first, second, cases),
        lonely=[case for run in (first, second) for case in run.head.cases if case not in cases],
    )


def compare_table(first: Run, second: Run) -> str:
    """Times and speed-ups of the cases that both runs have, as text.

    The last column, the candidate's change relative to its own baseline, is given only where the
    environments allow it: across devices there are tables, no verdict.

    Raises:
        NotComparableError: See `compare`.
    """
    pair = compare(first, second)
    lines = [f"{name} run {run.head.run_id}: {_label(run)}" for name, run in _named(pair)]
    lines.append(_WORDS[pair.level])
    lines += [f"- {difference}" for difference in pair.differences]
    for arm in pair.arms:
        lines += [f"\n{arm.candidate} against {arm.baseline}", _table(arm, pair.level)]
    if not pair.arms:
        lines.append("\na run with a single arm has no ratio to compare; see `srbench show`")
    if pair.work:
        rows = [
            [each.case, each.arm, each.counter, *map(_count, (each.first, each.second))]
            for each in pair.work
        ]
        header = ["case", "arm", "counter", "A", "B"]
        lines += ["\nwork that differs", plain_table(header, rows, left=3)]
    if pair.lonely:
        lines.append(f"\nonly in one of the two: {', '.join(pair.lonely)}")
    return "\n".join(lines)


def compare_json(first: Run, second: Run) -> dict[str, Any]:
    """The same as JSON values, unrounded; times in seconds, changes as fractions.

    Raises:
        NotComparableError: See `compare`.
    """
    pair = compare(first, second)
    return {
        **{
            name.lower(): {"run": run.head.run_id, "label": _label(run)}
            for name, run in _named(pair)
        },
        "level": pair.level.value,
        "level_means": _WORDS[pair.level],
        "differences": pair.differences,
        "comparisons": [
            {
                "candidate": arm.candidate,
                "baseline": arm.baseline,
                "cases": [
                    {
                        "case": each.case,
                        "a": _side_json(each.first),
                        "b": _side_json(each.second),
                        "change": None if each.change is None else asdict(each.change),
                    }
                    for each in arm.cases
                ],
            }
            for arm in pair.arms
        ],
        "work": [asdict(each) for each in pair.work],
        "only_in_one": pair.lonely,
    }


def _named(pair: RunPair) -> list[tuple[str, Run]]:
    return [("A", pair.first), ("B", pair.second)]


def _label(run: Run) -> str:
    return build_model(run).label


def _settings(first: Run, second: Run) -> list[str]:
    """Settings that make two runs measurements of different things."""
    facts = [
        (what, getattr(first.head, what), getattr(second.head, what))
        for what in ("precision", "purpose")
    ]
    return [f"other {what}: {a}, but B has {b}" for what, a, b in facts if a != b]


def _names(first: Run, second: Run) -> list[str]:
    """Arms matched by their role, a single candidate to a single candidate."""
    ours, theirs = (", ".join(run.head.pipelines) for run in (first, second))
    return [f"other arms: {ours}, but B has {theirs}"] if ours != theirs else []


def _change(first: Run, second: Run, arm: str, other_arm: str, case: str) -> Change | None:
    before = list(block_log_ratios(first, case, arm).values())
    after = list(block_log_ratios(second, case, other_arm).values())
    if not before or not after:
        return None
    effect = welch_difference(after, before)
    interval = effect.interval()
    low, high = (None, None) if interval is None else (exp(end) - 1 for end in interval)
    return Change(exp(effect.estimate) - 1, low, high)


def _work(first: Run, second: Run, cases: list[str]) -> list[WorkDifference]:
    roles = {baseline_arm(first): baseline_arm(second)}
    if len(candidate_arms(first)) == len(candidate_arms(second)) == 1:
        roles[candidate_arms(first)[0]] = candidate_arms(second)[0]
    roles |= {arm: arm for arm in first.head.pipelines if arm in second.head.pipelines}
    found = []
    for case in cases:
        for ours, theirs in roles.items():
            a, b = work_counters(first, case, ours), work_counters(second, case, theirs)
            found += [
                WorkDifference(case, ours, counter, a.get(counter), b.get(counter))
                for counter in dict.fromkeys([*a, *b])
                if a.get(counter) != b.get(counter)
            ]
    return found


def _table(arm: ArmPair, level: Level) -> str:
    header = ["case", "A baseline s", "A optimized s", "A speed-up (95 %)"]
    header += ["B baseline s", "B optimized s", "B speed-up (95 %)"]
    header += [] if level is Level.RATIO_ONLY else ["B's ratio to A's (95 %)"]
    rows = []
    for each in arm.cases:
        line = [each.case, *_side(each.first), *_side(each.second)]
        rows.append(line if level is Level.RATIO_ONLY else [*line, _percent(each.change)])
    return plain_table(header, rows)


def _side(row: Row) -> list[str]:
    value = row.speedup
    ends = "" if value is None or value.low is None else f" ({value.low:.2f}..{value.high:.2f})"
    return [seconds(row.baseline), seconds(row.candidate), ratio(value) + ends]


def _side_json(row: Row) -> dict[str, Any]:
    value = row.speedup
    return {
        "baseline_s": _median_s(row.baseline),
        "candidate_s": _median_s(row.candidate),
        "speedup": None if value is None else asdict(value),
        "baseline_outcome": row.baseline.outcome,
        "candidate_outcome": row.candidate.outcome,
    }


def _median_s(cell: ArmCell) -> float | None:
    return None if cell.latency is None else cell.latency.median / 1000


def _percent(change: Change | None) -> str:
    if change is None:
        return "–"
    text = f"{100 * change.value:+.1f} %"
    if change.low is None or change.high is None:
        return f"{text} (n/a, 1 block)"
    return f"{text} ({100 * change.low:+.1f}..{100 * change.high:+.1f} %)"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
