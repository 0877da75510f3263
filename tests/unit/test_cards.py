"""The combined report: cards side by side, what broke, what differs, and no verdict."""

import re
from dataclasses import replace
from math import exp, log
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from srbench.cli.judge import report
from srbench.errors import UsageError
from srbench.records import Run
from srbench.report.cards import cards_table, digest_run, write_cards
from srbench.report.cards.facts import card_table, differences
from srbench.report.cards.model import Cards, combine
from srbench.report.model import build_model
from tests.factories import (
    BASELINE,
    CASES,
    OPTIMIZED,
    Spec,
    change_fidelity,
    change_head,
    make_run,
    write_run,
)

LIBRARIES = {"torch": "2.14.1", "triton": None}


def _run(profile: str, node: int = 0, *, torch: str = "2.14.1", **changes: Any) -> Run:
    run = make_run(Spec(profile=profile, seed=node, blocks=3, pairs=3, synthetic=False), **changes)
    facts = {
        "gpu_name": f"NVIDIA {profile.upper()}",
        "gpu_uuid": f"GPU-{profile}-{node}",
        "gpu_memory_bytes": 24 * 2**30,
        "driver": "550.54.15",
        "versions": {**LIBRARIES, "torch": torch},
    }
    return change_head(run, fingerprint=facts)


def _broken(run: Run, case: str, outcome: str, reason: str) -> Run:
    cells = [
        replace(cell, outcome=outcome, reason=reason, samples=[])
        if (cell.case, cell.pipeline) == (case, OPTIMIZED)
        else cell
        for cell in run.cells
    ]
    return replace(run, cells=cells)


def _combined(*runs: Run) -> Cards:
    return combine(map(digest_run, runs))


def _three() -> list[Run]:
    small = _broken(_run("a10"), CASES[2], "oom", "asked for 30 GiB")
    return [small, _run("l20", speedup=2.5), _run("h100", speedup=1.5, torch="2.13.0")]


def test_each_card_shows_what_its_own_report_shows() -> None:
    runs = _three()
    (table,) = _combined(*runs).tables
    assert (table.baseline, table.candidate) == (BASELINE, OPTIMIZED)
    for run in runs:
        (own,) = build_model(run).comparisons
        for row in own.rows:
            cell = table.cells[row.case][run.head.profile]
            assert row.baseline.latency is not None
            assert cell.baseline.seconds == row.baseline.latency.median / 1000
            assert cell.candidate.peak_bytes == row.candidate.peak_bytes
            if row.speedup is None:
                assert (run.head.profile, row.case, cell.ratio) == ("a10", CASES[2], None)
                assert cell.candidate.broken == {"oom": 1}
            else:
                assert cell.ratio is not None
                estimate = row.speedup.value, row.speedup.low, row.speedup.high
                assert (cell.ratio.value, cell.ratio.low, cell.ratio.high) == estimate


def test_the_mean_is_over_the_cases_that_all_cards_have() -> None:
    runs = _three()
    (table,) = _combined(*runs).tables
    assert table.geomean_cases == CASES[:2]
    (own,) = build_model(runs[1]).comparisons
    logs = [median(own.ratios[case].values()) for case in CASES[:2]]
    mean = table.geomean["l20"].value
    assert mean == pytest.approx(exp(-sum(logs) / 2), rel=0.02)
    assert own.geomean is not None
    assert mean != own.geomean.value


def test_machines_of_a_card_are_summed_up_and_not_pooled() -> None:
    runs = [_run("a10", node, speedup=2.0 + 0.1 * node) for node in range(5)]
    again = change_head(
        _run("a10", 4, speedup=2.6), run_id="again", fingerprint=runs[4].head.fingerprint
    )
    cards = _combined(*runs, again, _run("h100"))
    assert [card.nodes for card in cards.cards] == [5, 1]
    (table,) = cards.tables
    ratio = table.cells[CASES[0]]["a10"].ratio
    values = [
        row.speedup.value
        for run in [*runs, again]
        for row in build_model(run).comparisons[0].rows
        if row.case == CASES[0] and row.speedup is not None
    ]
    of_nodes = [*values[:4], exp((log(values[4]) + log(values[5])) / 2)]
    assert ratio is not None
    assert (ratio.over, ratio.count) == ("nodes", 5)
    assert ratio.value == pytest.approx(median(of_nodes))
    assert (ratio.low, ratio.high) == pytest.approx((min(of_nodes), max(of_nodes)))
    assert "[" in cards_table([*runs, again])
    only = _combined(runs[0], change_head(runs[0], run_id="later")).tables[0].cells[CASES[0]]["a10"]
    assert only.ratio is not None
    assert (only.ratio.over, only.ratio.count) == ("runs", 2)


def test_the_worst_picture_of_any_run_is_shown() -> None:
    good, bad = _run("a10", 0), change_fidelity(_run("a10", 1), 0, metrics={"psnr": 31.0})
    (table,) = _combined(good, bad).tables
    worst = table.cells[CASES[0]]["a10"].worst
    assert worst is not None
    assert worst.metrics["psnr"] == 31.0
    invalid = change_fidelity(_run("a10", 2), 0, outcome="invalid", reason="NaN", metrics={})
    (table,) = _combined(good, invalid, bad).tables
    assert table.cells[CASES[0]]["a10"].worst == invalid.fidelity[0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"weights": {"kind": "mini", "digest": "cd" * 32}}, "other weights"),
        ({"inputs": {case: {"sha256": "00"} for case in CASES}}, "other input pixels"),
        ({"cases": ["8x8x2"]}, "no case in common"),
        ({"purpose": "aa"}, "other purpose"),
    ],
)
def test_what_is_no_like_measurement_is_left_out_and_named(
    tmp_path: Path, change: dict[str, Any], why: str
) -> None:
    other = change_head(_run("h100"), run_id="the-other", **change)
    runs = [_run("a10"), other, _run("l20")]
    cards = _combined(*runs)
    assert [card.profile.name for card in cards.cards] == ["a10", "l20"]
    assert len(cards.left_out) == 1
    assert "the-other" in cards.left_out[0]
    assert why in cards.left_out[0]
    assert why in cards_table(runs)
    assert why in write_cards(runs, tmp_path).read_text()


def test_pixels_are_held_over_all_runs_and_not_only_the_first() -> None:
    first = change_head(_run("a10"), cases=CASES[:1])
    other = _run("h100")
    inputs = {**other.head.inputs, CASES[1]: {"sha256": "00"}}
    cards = _combined(first, _run("l20"), change_head(other, inputs=inputs))
    assert f"other input pixels for {CASES[1]}" in cards.left_out[0]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"precision": "fp32"}, "other precision: fp16, but run the-other has fp32"),
        ({"tf32": True}, "other TF32 setting"),
        ({"versions": {BASELINE: "1", OPTIMIZED: "2"}}, f"other version of {OPTIMIZED}"),
        ({"options": {OPTIMIZED: {"graphs": False}}}, f"other option 'graphs' of {OPTIMIZED}"),
        ({"run_id": "the-same"}, "run the-same is left out: it is there already"),
    ],
)
def test_only_what_ran_alike_is_summed_up_on_a_card(change: dict[str, Any], why: str) -> None:
    first, other = (
        change_head(_run("a10", node), run_id=name, options={OPTIMIZED: {"graphs": True}})
        for node, name in enumerate(("the-same", "the-other"))
    )
    (left_out,) = _combined(first, change_head(other, **change)).left_out
    assert why in left_out
    # On another card they are shown, and what differs is said.
    beside = [first, change_head(other, profile="l20", **change)]
    assert _combined(*beside).left_out == []
    told = "different precisions: a10 fp16, l20 fp32" in cards_table(beside)
    assert told == ("precision" in change)


def test_what_differs_beside_the_card_is_listed() -> None:
    runs = [*_three(), _run("h100", 1), change_head(_run("h200"), precision="fp32")]
    table = differences(_combined(*runs))
    assert table is not None
    rows = {row[0].text: [cell.text for cell in row[1:]] for row in table.rows}
    assert rows["torch"] == ["2.14.1", "2.14.1", "2.13.0 (1 runs), 2.14.1 (1 runs)", "2.14.1"]
    assert rows["precision"] == ["fp16", "fp16", "fp16", "fp32"]
    assert "driver" not in rows
    assert "triton" not in rows
    assert differences(_combined(_run("a10"), _run("l20"))) is None


def test_machines_of_one_card_that_differ_too_much_are_named() -> None:
    mixed = [_run("h100"), _run("h100", 1, torch="2.13.0"), _run("a10"), _run("a10", 1)]
    levels = [row[-1].text for row in card_table(_combined(*mixed)).rows]
    assert levels == ["ratio only", "exact"]
    assert "runs of h100 are not of one environment" in cards_table(mixed)


def test_blocks_on_other_machines_count_as_nodes() -> None:
    run = _run("a10")
    spare = {**run.head.fingerprint, "gpu_uuid": "GPU-spare"}
    (card,) = _combined(replace(run, machines={1: spare, 2: spare})).cards
    assert card.nodes == 2


def test_the_page_shows_every_card_what_broke_and_no_verdict(tmp_path: Path) -> None:
    page = write_cards(_three(), tmp_path / "new")
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "cards.html",
        "cards.md",
        "cards_speedup.svg",
    ]
    text = page.read_text()
    rows = {line.split("|")[1].strip(): line for line in text.splitlines() if "|" in line}
    assert re.match(rf"\| {CASES[2]} \| – \| .*\| OOM \|", rows[CASES[2]])
    assert "| a10 | 96x64x2 | s3diff-optimized | OOM | 1 |" in text
    assert "asked for 30 GiB" in text
    assert "No verdict across cards" in text
    assert "PASS" not in text
    assert "| Case | a10 Speed Up | l20 Speed Up | h100 Speed Up | a10 baseline s |" in text
    html = page.with_suffix(".html").read_text()
    assert "asked for 30 GiB" in html
    assert re.findall(r'(?:src|href)="(?!data:|#)', html) == []


def test_a_simulation_says_so_everywhere(tmp_path: Path) -> None:
    runs = [change_head(run, purpose="simulation") for run in _three()]
    page = write_cards(runs, tmp_path)
    for text in (page.read_text(), page.with_suffix(".html").read_text(), cards_table(runs)):
        assert "SIMULATED" in text
    captions = [line for line in page.read_text().splitlines() if line.startswith("*")]
    assert all("SIMULATED" in caption for caption in captions)


def test_synthetic_weights_say_so() -> None:
    assert "SYNTHETIC" in cards_table([_run("a10", synthetic=True)])
    assert "SYNTHETIC" not in cards_table([_run("a10")])


def test_the_terminal_has_ratios_side_by_side() -> None:
    lines = cards_table(_three()).splitlines()
    header = next(line for line in lines if line.startswith("case "))
    assert header.split() == ["case", "a10", "l20", "h100"]
    row = next(line for line in lines if line.startswith(CASES[0]))
    assert len(re.findall(r"\d\.\d\dx \(", row)) == 3


def test_a_reason_cannot_break_out_of_its_cell(tmp_path: Path) -> None:
    evil = "x | y\n<script>alert(1)</script>"
    page = write_cards([_broken(_run("a10"), CASES[0], "crash", evil), _run("l20")], tmp_path)
    assert "<script>alert" not in page.with_suffix(".html").read_text()
    assert "x \\| y &lt;script>" in page.read_text()


def test_no_run_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no run given"):
        write_cards([], tmp_path)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--out .*file.*cannot be written"):
        write_cards([_run("a10")], tmp_path / "file")


def test_runs_of_one_arm_or_of_nothing_have_a_page(tmp_path: Path) -> None:
    alone = [
        change_head(_run(profile), pipelines=[BASELINE], run_id=profile)
        for profile in ("a10", "l20")
    ]
    assert "single arm" in cards_table(alone)
    assert "single arm" in write_cards(alone, tmp_path).read_text()
    empty = replace(_run("a10"), cells=[], fidelity=[], finished_blocks=set(), ended=False)
    text = write_cards([empty, _run("l20")], tmp_path).read_text()
    assert "1 (1 not finished)" in text
    assert "| not measured | not measured | – | not measured |" in text


def test_the_runs_that_one_command_began_are_reported_by_their_group(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results"
    for profile, group in (("a10", "g1"), ("l20", "g1"), ("h100", None)):
        write_run(change_head(_run(profile), group=group), results)
    report(None, out=tmp_path / "out", group="g1", pages=False, results=results)
    assert capsys.readouterr().out == f"{tmp_path / 'out' / 'cards.md'}\n"
    page = (tmp_path / "out" / "cards.md").read_text()
    assert page.startswith("# NVIDIA A10, NVIDIA L20, side by side")
    with pytest.raises(UsageError, match="--group g2: no run of it"):
        report(None, out=tmp_path / "out", group="g2", pages=False, results=results)
