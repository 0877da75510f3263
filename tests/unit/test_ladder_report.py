"""What a ladder's report shows: gains of the same blocks, fidelity, predictions, broken rungs."""

import json
from dataclasses import replace
from math import exp, log
from pathlib import Path
from statistics import fmean, median
from typing import Any

import pytest

from srbench.errors import UsageError
from srbench.ladder.arms import LadderArm
from srbench.records import FidelityRecord, Run
from srbench.report import write_report
from srbench.report.html.ladders import ladder_stage_table, ladder_table
from srbench.report.ladder import OVER_BEFORE, LadderCase, ladder_cases, ladder_json
from srbench.report.ladder_text import ladder_text
from srbench.report.model import build_model
from srbench.report.overview import overview_text
from srbench.report.tables import console_table
from tests.factories import make_run

BASE = "s3diff-baseline"
RUNGS = ["P1", "P2-a", "P2", "C"]
CASES = ["64x64x2", "128x128x4"]
TRUE_MS = {BASE: 900.0, "P1": 300.0, "P2-a": 200.0, "P2": 210.0, "C": 100.0}


def arms(names: list[str]) -> list[LadderArm]:
    return [
        LadderArm(
            name=name,
            rung=name != BASE,
            title=f"title of {name}",
            options={} if name == BASE else {f"option_{name}": "true"},
            on_top=name == "C",
            predicted_s={"64x64x2": 0.4} if name == "P1" else {},
        )
        for name in names
    ]


def likeness(case: str, arm: str, reference: str, psnr: float, **changes: Any) -> FidelityRecord:
    metrics = {"psnr": psnr, "worst_block_psnr": psnr - 10, "eps_relative_l2": 1e-3}
    return FidelityRecord(
        case=case, pipeline=arm, reference=reference, **{"metrics": metrics, **changes}
    )


def ladder_run(names: list[str] | None = None, **changes: Any) -> Run:
    names = names or [BASE, *RUNGS]
    head = {"purpose": "ladder", "ladder": [arm.to_record() for arm in arms(names)]}
    run = make_run(arms=names, cases=CASES, blocks=4, pairs=3, head=head, **changes)
    cells = []
    for cell in run.cells:
        usual = median(s["latency_ms"] for s in cell.samples)
        scaled = [
            {**s, "latency_ms": s["latency_ms"] / usual * TRUE_MS[cell.pipeline] * (1 + cell.block)}
            for s in cell.samples
        ]
        cells.append(replace(cell, samples=scaled))
    fidelity = [
        likeness(case, arm, names[0], 46.0 if turn > 1 else 80.0)
        for case in CASES
        for turn, arm in enumerate(names)
        if turn
    ] + [likeness(case, "P2", "P2-a", 62.0) for case in CASES]
    return replace(run, cells=cells, fidelity=fidelity)


def broken(run: Run, arm: str, outcome: str = "oom") -> Run:
    reason = f"{outcome} in\n{arm}"
    cells = [
        replace(c, outcome=outcome, reason=reason, samples=[], memory={})
        if (c.pipeline, c.case) == (arm, CASES[0])
        else c
        for c in run.cells
    ]
    return replace(run, cells=cells)


def by_name(ladder: LadderCase) -> Any:
    return {standing.arm.name: standing for standing in ladder.standings}


def test_gains_come_from_the_same_blocks() -> None:
    run = ladder_run()
    standing = by_name(ladder_cases(run)[0])["P2"]
    times = {
        (cell.pipeline, cell.block): {s["pair"]: s["latency_ms"] for s in cell.samples}
        for cell in run.cells
        if cell.case == CASES[0]
    }

    def gain(reference: str) -> float:
        """Twice as slow a block leaves no trace: both arms are slower in it."""
        ratios = [
            median(log(times["P2", block][p] / times[reference, block][p]) for p in range(3))
            for block in range(4)
        ]
        return exp(-fmean(ratios))

    assert standing.before == "P2-a"
    assert standing.over_before.value == pytest.approx(gain("P2-a"))
    assert standing.over_before.low < standing.over_before.value < 1.0
    assert standing.over_first.value == pytest.approx(gain("P1"))
    assert standing.over_baseline.value == pytest.approx(gain(BASE))
    assert standing.over_baseline.blocks == 4


def test_the_first_arm_is_over_nothing_and_the_first_rung_over_the_baseline() -> None:
    standings = by_name(ladder_cases(ladder_run())[0])
    base, first = standings[BASE], standings["P1"]
    assert (base.before, base.over_before, base.over_baseline, base.likeness) == (None,) * 4
    assert first.before == BASE
    assert first.over_before == first.over_baseline
    assert first.over_first is None
    assert first.change is None
    assert standings["P2"].change.metrics["psnr"] == 62.0


def test_a_ladder_without_a_baseline_stands_on_its_first_rung() -> None:
    (ladder, _) = ladder_cases(ladder_run(RUNGS))
    standings = by_name(ladder)
    assert standings["P2"].over_baseline is None
    assert standings["P2"].over_first.value == pytest.approx(300 / 210, rel=0.05)
    assert standings["P2-a"].likeness.reference == "P1"
    header = ladder_table(ladder, "x").header
    assert "Over P1" in header
    assert "Over the baseline" not in header


def test_predictions_stand_beside_what_was_measured() -> None:
    small, large = (by_name(ladder)["P1"] for ladder in ladder_cases(ladder_run()))
    assert small.predicted_s == 0.4
    assert small.predicted_over_measured == pytest.approx(0.4 / small.seconds)
    assert large.predicted_over_measured is None
    table = ladder_table(ladder_cases(ladder_run())[1], "x")
    assert "Predicted s" not in table.header
    assert not any("Predicted" in note for note in table.notes)


def test_a_broken_rung_is_shown_and_the_next_is_held_against_the_last_that_was_timed() -> None:
    ladder, whole = ladder_cases(broken(ladder_run(), "P2-a", "crash"))
    standings = by_name(ladder)
    assert standings["P2-a"].seconds is standings["P2-a"].over_before is None
    assert standings["P2"].before == "P1"
    assert standings["P2"].over_before.value == pytest.approx(300 / 210, rel=0.05)
    assert standings["P2"].change is None
    assert by_name(whole)["P2-a"].seconds is not None
    table = ladder_table(ladder, "x")
    row = next(row for row in table.rows if row[0].text == "P2-a")
    assert row[3].text == "crash"
    assert {cell.text for cell in row[4:]} == {"–"}
    assert table.notes[0].startswith("P2-a: crash: crash in")
    assert "P2 over P1" in table.notes[1]


def test_the_document_has_numbers_and_nulls() -> None:
    small, _ = json.loads(json.dumps(ladder_json(broken(ladder_run(), "P2"))))
    assert small["case"] == CASES[0]
    assert small["baseline"]["name"] == BASE
    first, *_, gone, top = small["rungs"]
    assert [rung["name"] for rung in small["rungs"]] == RUNGS
    assert first["over_previous"]["reference"] == BASE
    assert first["predicted_seconds"] == 0.4
    assert first["fidelity"]["psnr"] == 80.0
    assert (gone["outcome"], gone["seconds"], gone["images"]) == ("oom", None, 0)
    assert (top["on_top"], top["over_previous"]["reference"]) == (True, "P2-a")
    assert ladder_json(make_run()) == []


def test_all_options_are_named_and_no_prediction_is_explained() -> None:
    run = ladder_run(RUNGS)
    options = {**dict.fromkeys("abcd", "false"), "tile_batch": "1"}
    run.head.ladder[0] |= {"options": options, "predicted_s": {}}
    table = ladder_table(ladder_cases(run)[0], "x")
    assert table.rows[0][2].text == "5, below the table"
    assert table.rows[1][2].text == "option_P2-a=true"
    assert "P1 sets off: a, b, c, d; tile_batch=1" in table.notes
    assert any("here: this pipeline has none, or " in note for note in table.notes)


def test_pages_hold_the_ladder_and_one_comparison(tmp_path: Path) -> None:
    run = ladder_run(synthetic=True)
    page = write_report([run], tmp_path)
    text, html = page.read_text(), (tmp_path / "cpu.html").read_text()
    assert "Purpose: ladder" in text
    assert "fresh process for each arm" in text
    assert "Verdict" not in text
    for case in CASES:
        assert f"## Ladder of {case}" in text
        assert f"](cpu_ladder_{case}.svg)" in text
        assert (tmp_path / f"cpu_ladder_{case}.svg").is_file()
        assert f"<h2>Ladder of {case}</h2>" in html
    assert html.count("data:image/svg+xml;base64,") == len(CASES)
    assert "| P2 | title of P2 | option_P2=true |" in text
    assert "| C (on top) |" in text
    assert "**SYNTHETIC weights**" in text
    assert [each.candidate for each in build_model(run).comparisons] == ["P2"]
    assert f"## P2 against {BASE}" in text
    assert "## C against" not in text
    before = (tmp_path / f"cpu_ladder_{CASES[0]}.svg").read_bytes()
    write_report([run], tmp_path)
    assert (tmp_path / f"cpu_ladder_{CASES[0]}.svg").read_bytes() == before


def test_the_terminal_shows_the_rungs() -> None:
    run = ladder_run()
    text = ladder_text(ladder_cases(run), "label")
    assert "Ladder of 64x64x2, label" in text
    line = next(line for line in text.splitlines() if line.startswith("P2-a"))
    assert "title of P2-a" in line
    gain = by_name(ladder_cases(run)[0])["P2-a"].over_before
    assert f"{gain.value:.2f}x" in line
    assert f" {OVER_BEFORE.lower()} " in text
    assert "Ladder of 64x64x2" in overview_text(run)
    assert "Ladder" not in console_table(make_run())


def test_stages_are_shown_rung_by_rung_where_any_was_timed() -> None:
    ladder, _ = ladder_cases(ladder_run())
    table = ladder_stage_table(ladder, "x")
    assert table is not None
    assert [row[0].text for row in table.rows] == [BASE, *RUNGS]
    assert "unet" in table.header
    run = ladder_run()
    cells = [replace(c, samples=[{**s, "stages_ms": {}} for s in c.samples]) for c in run.cells]
    assert ladder_stage_table(ladder_cases(replace(run, cells=cells))[0], "x") is None


def test_a_damaged_ladder_is_told() -> None:
    run = ladder_run()
    damaged = replace(run, head=replace(run.head, ladder=[{"name": "P1", "on_top": False}]))
    with pytest.raises(UsageError, match="ladder is damaged"):
        build_model(damaged)
