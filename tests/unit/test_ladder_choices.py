"""What the rungs of a ladder chose by themselves, as a table."""

from dataclasses import replace

from srbench.records import Run
from srbench.report.html.chosen import decision_table
from tests.factories import make_run
from tests.unit.test_ladder_report import BASE, CASES, RUNGS, ladder_run


def choosing(run: Run, **unlike: str) -> Run:
    """Every rung chooses; `unlike` names what a rung chooses in the first case."""
    cells = []
    for cell in run.cells:
        device = unlike.get(cell.pipeline, "dense") if cell.case == CASES[0] else "dense"
        chosen = {} if cell.pipeline == BASE else {"device": device, "tile_batch": "4"}
        cells.append(replace(cell, decisions=chosen))
    return replace(run, cells=cells)


def rows_of(run: Run) -> list[list[str]]:
    table = decision_table(run)
    assert table is not None
    assert table.header == ["Case", "Arm", "Device", "Tile batch"]
    return [[cell.text for cell in row] for row in table.rows]


def test_choices_have_a_column_a_subject_and_alike_ones_of_a_ladder_one_row() -> None:
    run = ladder_run()
    assert decision_table(run) is None
    assert rows_of(choosing(run)) == [["all", "all", "dense", "4"]]
    small = [[CASES[0], arm, "sparse" if arm == "P2" else "dense", "4"] for arm in RUNGS]
    unlike = choosing(run, P2="sparse")
    assert rows_of(unlike) == [*small, [CASES[1], "all", "dense", "4"]]
    table = decision_table(unlike)
    assert table is not None
    assert table.notes[0].startswith("all: ")


def test_choices_of_other_runs_are_listed_arm_by_arm() -> None:
    run = choosing(make_run(arms=[BASE, "P1", "P2"], cases=CASES))
    assert [row[:2] for row in rows_of(run)] == [[c, a] for c in CASES for a in ("P1", "P2")]
