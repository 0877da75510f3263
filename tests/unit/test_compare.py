from __future__ import annotations

import json
from dataclasses import replace

import pytest

from srbench.errors import NotComparableError
from srbench.report.compare import compare_json, compare_table
from srbench.report.model import build_model
from tests.factories import BASELINE, CASES, OPTIMIZED, change_head, make_run


def test_compare_gives_the_change_only_on_one_device() -> None:
    first, second = make_run(seed=1), make_run(seed=2, slowdown=1.2)
    table = compare_table(first, second)
    assert "the same environment: times, ratios" in table
    assert "B's ratio to A's" in table
    assert "+20." in table or "+19." in table
    other = compare_table(first, make_run(seed=2, profile="l20"))
    assert "tables side by side, no verdict" in other
    assert "- other profile: cpu, but B has l20" in other
    assert "B's ratio to A's" not in other


def test_compare_says_in_words_what_a_patch_level_leaves() -> None:
    first, second = make_run(seed=1), make_run(seed=2)
    facts = second.head.fingerprint | {"driver": "570.1"}
    second = change_head(second, fingerprint=facts)
    table = compare_table(first, second)
    assert "only ratios may be compared, times may not" in table
    assert "- other driver: none, but B has 570.1" in table
    assert "B's ratio to A's" in table


def test_compare_as_json_is_unrounded_and_agrees_with_the_table() -> None:
    first, second = make_run(seed=1), make_run(seed=2, slowdown=1.2)
    document = json.loads(json.dumps(compare_json(first, second), allow_nan=False))
    assert (document["level"], document["a"]["run"]) == ("exact", first.head.run_id)
    (comparison,) = document["comparisons"]
    case = comparison["cases"][0]
    assert case["case"] == CASES[0]
    change = case["change"]
    assert change["low"] < change["value"] < change["high"]
    assert change["value"] == pytest.approx(0.2, abs=0.04)
    row = build_model(first).comparisons[0].rows[0]
    assert row.speedup is not None
    assert case["a"]["speedup"]["value"] == row.speedup.value
    assert f"{100 * change['value']:+.1f} %" in compare_table(first, second)


def test_compare_with_one_block_has_no_interval() -> None:
    runs = make_run(seed=1, blocks=1), make_run(seed=2, blocks=1)
    assert "(n/a, 1 block)" in compare_table(*runs)
    change = compare_json(*runs)["comparisons"][0]["cases"][0]["change"]
    assert (change["low"], change["high"]) == (None, None)


def test_compare_shows_counters_that_differ() -> None:
    first = make_run(seed=1)
    assert "work that differs" not in compare_table(first, make_run(seed=2))
    cells = [
        replace(cell, work=cell.work | {"launches": 901}) if cell.pipeline == OPTIMIZED else cell
        for cell in make_run(seed=2).cells
    ]
    table = compare_table(first, replace(make_run(seed=2), cells=cells))
    lines = table.split("work that differs")[1].splitlines()
    assert lines[3].split() == [CASES[0], OPTIMIZED, "launches", "900", "901"]


def test_compare_takes_runs_of_any_kind() -> None:
    single = make_run(arms=[BASELINE])
    table = compare_table(single, make_run())
    assert "single arm has no ratio" in table
    assert f"- other arms: {BASELINE}, but B has {BASELINE}, {OPTIMIZED}" in table
    work = change_head(make_run(), purpose="work")
    assert "- other purpose: run, but B has work" in compare_table(make_run(), work)
    empty = replace(make_run(), cells=[])
    assert "not measured" in compare_table(make_run(), empty)


def test_compare_refuses_other_weights_and_names_lonely_cases() -> None:
    first = make_run(seed=1)
    with pytest.raises(NotComparableError, match="other weights"):
        compare_table(first, change_head(first, weights={"digest": "00"}))
    assert "only in one of the two: 96x64x2" in compare_table(first, make_run(cases=CASES[:2]))
