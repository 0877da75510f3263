"""What pipelines chose by themselves for each case on this device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from srbench.records import Run
from srbench.report.html.table import Cell, Table
from srbench.stats.runs import cells_of

Chosen = Mapping[str, str]
"""Subject -> what was chosen."""

_ALL = "all"
T = TypeVar("T")


def decision_table(run: Run) -> Table | None:
    """One row a case and arm, a column a subject; alike ones of a ladder share a row."""
    shown = choices(run)
    if not shown:
        return None
    if run.head.ladder:
        shown = _all_if_alike({case: _all_if_alike(arms) for case, arms in shown.items()})
    rows = [(case, arm, words) for case, arms in shown.items() for arm, words in arms.items()]
    subjects = list(dict.fromkeys(subject for *_, words in rows for subject in words))
    return Table(
        caption="What the pipelines chose for this device",
        header=["Case", "Arm", *(subject.replace("_", " ").capitalize() for subject in subjects)],
        words=2 + len(subjects),
        rows=[
            [Cell(case), Cell(arm), *(Cell(words.get(subject, "–")) for subject in subjects)]
            for case, arm, words in rows
        ],
        notes=_notes(rows),
        prose=True,
    )


def choices(run: Run) -> dict[str, dict[str, Chosen]]:
    """Case -> arm -> what it chose, in table order; without what chose nothing."""
    chosen = {
        case: {arm: words for arm in run.head.pipelines if (words := _chosen(run, case, arm))}
        for case in run.head.cases
    }
    return {case: arms for case, arms in chosen.items() if arms}


def _chosen(run: Run, case: str, arm: str) -> Chosen:
    """Of an arm in a case; processes that chose differently are all listed."""
    found: dict[str, list[str]] = {}
    for cell in cells_of(run, case, arm):
        for subject, words in cell.decisions.items():
            if words not in found.setdefault(subject, []):
                found[subject].append(words)
    return {subject: "; or ".join(words) for subject, words in found.items()}


def _all_if_alike(by_name: Mapping[str, T]) -> dict[str, T]:
    first, *others = by_name.values()
    return {_ALL: first} if others and all(each == first for each in others) else dict(by_name)


def _notes(rows: list[tuple[str, str, Chosen]]) -> list[str]:
    if not any(_ALL in (case, arm) for case, arm, _ in rows):
        return []
    return [f"{_ALL}: every one in which anything was chosen, alike in each."]
