"""What a report says of a pipeline that simulates its arithmetic, or counts in integers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from pipelines.contract import OperatorCount
from srbench.profiles import load_profile, profile_names
from srbench.records import Run
from srbench.report.html.measured import speedup_table
from srbench.report.markdown import render
from srbench.report.model import build_model
from srbench.report.overview import overview_text
from srbench.report.tables import console_table
from srbench.roofline.limits import datasheet_limits, limit_seconds
from tests.factories import OPTIMIZED, make_run

WORDS = f"{OPTIMIZED} simulates its arithmetic: its pictures count, its times do not."


def chosen(arithmetic: str) -> Run:
    run = make_run()
    decisions = {"arithmetic": arithmetic, "model_size": "4.6 MB (fp16: 8.6 MB)"}
    cells = [
        replace(cell, decisions=decisions if cell.pipeline == OPTIMIZED else {})
        for cell in run.cells
    ]
    return replace(run, cells=cells)


@pytest.mark.parametrize(
    ("arithmetic", "said"),
    [("simulated (asked for); layers: 3 in simulated", True), ("int8 (NVIDIA A10 (sm86))", False)],
)
def test_times_of_a_simulation_carry_a_warning(arithmetic: str, said: bool) -> None:
    run = chosen(arithmetic)
    model = build_model(run)
    (comparison,) = model.comparisons
    assert (WORDS in console_table(run).splitlines()) is said
    assert (f"> {WORDS}" in render(model, {})) is said
    assert (WORDS in speedup_table(model, comparison).notes) is said


def test_choices_are_shown_in_the_report_and_by_show() -> None:
    run = chosen("int8 (NVIDIA A10 (sm86)); layers: 289 in int8")
    page = render(build_model(run), {})
    assert "Model size" in page
    assert "4.6 MB (fp16: 8.6 MB)" in page
    text = overview_text(run)
    case = run.head.cases[0]
    assert f"chosen by {OPTIMIZED} in {case}\n  arithmetic: int8 (NVIDIA A10 (sm86)); " in text
    assert "  model size: 4.6 MB (fp16: 8.6 MB)" in text
    assert "chosen by" not in overview_text(make_run())


def operator(kind: str) -> OperatorCount:
    facts: dict[str, Any] = {"ideal_bytes": 1, "eager_bytes": 1, "weight_bytes": 0, "count": 1}
    return OperatorCount(stage="unet", kind=kind, flops=10**12, **facts)


def test_integers_have_limits_of_their_own() -> None:
    for name in profile_names():
        profile = load_profile(name)
        limits = datasheet_limits(profile, "fp16")
        if limits is None:
            assert profile.int8_tops is None
            continue
        floating, integers = (
            limit_seconds([operator(kind)], limits) for kind in ("conv", "int8_conv")
        )
        assert floating == pytest.approx(2 * integers, rel=0.01), name
        eighths = limit_seconds([operator("fp8_linear")], limits)
        # A card without fp8 never counts such a product; it would be worth one in fp16.
        assert eighths == pytest.approx(integers if profile.fp8_tflops else floating, rel=0.01)
