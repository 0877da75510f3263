from __future__ import annotations

import json
from dataclasses import replace

import pytest

from srbench.records import VoidRecord
from srbench.report.overview import cell_overviews, overview_json, overview_text
from tests.factories import CASES, OPTIMIZED, Noise, change_cell, change_head, make_run


def test_overview_shows_outcomes_voids_warm_up_and_noise() -> None:
    void = VoidRecord(block=2, attempt=1, finished_at="2025-01-02", reasons=["HW thermal"])
    run = replace(make_run(), voids=[void])
    run = change_cell(run, 1, outcome="oom", reason="asked for 12 GiB", samples=[], warmup_ms=[])
    text = overview_text(run)
    assert "void: block 2, attempt 1: HW thermal" in text
    assert "run, finished, 6 of 6 blocks x 5 pairs" in text
    row = next(line for line in text.splitlines() if line.startswith(f"{CASES[0]}  {OPTIMIZED}"))
    assert row.split()[2:8] == ["oom", "1", "ok", "5", "25", "10"]
    assert "PASS" not in text
    assert "speed-up" in text


def test_noise_of_the_overview_is_that_of_the_model() -> None:
    noise = Noise(process=0.02, block=0.05, iteration=0.01, correlation=0.0)
    cells = cell_overviews(make_run(blocks=60, pairs=20, noise=noise))
    base, optimized = cells[0], cells[1]
    assert base.image_noise == pytest.approx(0.01, rel=0.3)
    assert base.block_noise == pytest.approx((0.05**2 + 0.02**2) ** 0.5, rel=0.3)
    assert base.ratio_noise is None
    assert optimized.ratio_noise == pytest.approx(2**0.5 * 0.02, rel=0.3)


def test_overview_as_json_has_no_pictures_and_one_block_no_noise() -> None:
    run = make_run(blocks=1, pairs=1, crops=True)
    document = json.loads("".join(overview_json(run, "run.jsonl")))
    assert document["head"]["run_id"] == run.head.run_id
    assert "crops" not in document["fidelity"][0]
    first = document["overview"][0]
    assert (first["samples"], first["warmup_images"], first["outcomes"]) == (1, 2, {"ok": 1})
    assert (first["image_noise"], first["block_noise"]) == (None, None)


def test_overview_of_counters_and_of_nothing() -> None:
    assert "work of one image, exact" in overview_text(change_head(make_run(), purpose="work"))
    assert "not measured" in overview_text(replace(make_run(), cells=[], finished_blocks=set()))
