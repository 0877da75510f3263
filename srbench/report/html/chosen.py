"""What pipelines chose by themselves for each case on this device."""

from __future__ import annotations

from srbench.records import Run
from srbench.report.html.table import Cell, Table
from srbench.stats.runs import cells_of


def decision_table(run: Run) -> Table | None:
    """One row a case, arm and subject; processes that chose differently are all listed."""
    rows = []
    for case in run.head.cases:
        for arm in run.head.pipelines:
            chosen: dict[str, list[str]] = {}
            for cell in cells_of(run, case, arm):
                for subject, words in cell.decisions.items():
                    if words not in chosen.setdefault(subject, []):
                        chosen[subject].append(words)
            rows += [
                [Cell(case), Cell(arm), Cell(subject.replace("_", " ")), Cell("; or ".join(words))]
                for subject, words in chosen.items()
            ]
    if not rows:
        return None
    header = ["Case", "Arm", "What", "Chosen"]
    caption = "What the pipelines chose for this device"
    return Table(caption=caption, header=header, words=4, rows=rows, prose=True)
