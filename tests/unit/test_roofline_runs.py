"""Times of stored runs: which belong to counted work, and what is said of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srbench.errors import UsageError
from srbench.profiles import load_profile
from srbench.protocol import CountedOperators
from srbench.records import Run
from srbench.report.html.table import Table
from srbench.report.model import build_model
from srbench.report.roofline import limit_table
from srbench.report.tables import plain_table
from srbench.roofline.achieved import Achieved, achieved_in, newest_achieved, timed_runs, times_of
from srbench.roofline.ceilings import CeilingsFile
from srbench.roofline.figure import points, roofline_figure
from srbench.roofline.limits import Limits, datasheet_limits
from srbench.roofline.model import Roofline, build_roofline
from srbench.roofline.stored import limits_path, read_limits, write_limits
from srbench.roofline.text import card_table, case_table, console_text, markdown_text, notes
from tests.factories import BASELINE, OPTIMIZED, make_run, write_run

CASE = "64x64x2"
FLOPS = {"unet": 4_000_000_000, "vae_encode": 1_000_000_000}
LINES: list[list[Any]] = [
    ["vae_encode", "linear", 500_000_000, 8_000_000, 9_000_000, 0, 2],
    ["unet", "conv", 1_000_000_000, 16_000_000, 16_000_000, 1_000_000, 4],
    ["unet", "other", 0, 0, 90_000_000, 0, 3],
]
WORK = CountedOperators(
    flops=FLOPS, launches=9, calls={}, host_device_bytes=0, peak_tensor_bytes=0, operators=LINES
)
COUNTED = {(CASE, arm): WORK for arm in (BASELINE, OPTIMIZED)}


def run_of(flops: dict[str, int] | None = None, **head: Any) -> Run:
    made = make_run(cases=[CASE], profile="h100", head=head, blocks=2)
    cells = [replace(cell, work={**cell.work, "flops": flops or FLOPS}) for cell in made.cells]
    return replace(made, cells=cells)


RUN = run_of()
OPTIONS = RUN.head.options


def roofline(run: Run | None = None) -> Roofline:
    limits = [
        datasheet_limits(load_profile("h100"), "fp16"),
        Limits(source="measured", flops_per_s=8e14, bytes_per_s=3e12, kinds={"conv": 5e14}),
    ]
    achieved = (
        Achieved(run_id=None, times={}, reasons=dict.fromkeys(COUNTED, "no run is stored"))
        if run is None
        else achieved_in(run, "fp16", COUNTED, OPTIONS)
    )
    known = [each for each in limits if each is not None]
    return build_roofline(load_profile("h100"), "fp16", COUNTED, achieved, None, known)


def test_times_are_medians_over_all_blocks() -> None:
    found = times_of(RUN, CASE, BASELINE)
    assert found is not None
    images = sorted(
        sample["latency_ms"]
        for cell in RUN.cells
        if cell.pipeline == BASELINE
        for sample in cell.samples
    )
    assert images[0] < found.latency_ms < images[-1]
    assert set(found.stages_ms) == set(RUN.cells[0].samples[0]["stages_ms"])
    assert times_of(RUN, "1x1x1", BASELINE) is None


def test_a_run_of_the_same_work_tells_times() -> None:
    found = achieved_in(RUN, "fp16", COUNTED, OPTIONS)
    assert found.run_id == RUN.head.run_id
    assert set(found.times) == set(COUNTED)
    assert found.reasons == {}


@pytest.mark.parametrize(
    ("run", "reason"),
    [
        (run_of(cases=["16x16x2"]), "not in"),
        (run_of(options={arm: {"latent_tile": 64} for arm in OPTIONS}), "other options"),
        (run_of({"unet": 4_900_000_000}), "other networks"),
        (run_of(precision="fp32"), "is fp32, this is fp16"),
    ],
)
def test_other_work_has_no_times_here(run: Run, reason: str) -> None:
    found = achieved_in(run, "fp16", COUNTED, OPTIONS)
    assert found.times == {}
    assert all(reason in text for text in found.reasons.values())
    assert len(found.reasons) == 2


def test_a_crashed_arm_has_no_times() -> None:
    cells = [replace(cell, outcome="crash", samples=[]) for cell in RUN.cells]
    found = achieved_in(replace(RUN, cells=cells), "fp16", COUNTED, OPTIONS)
    assert found.times == {}
    assert all("no image of it was timed" in text for text in found.reasons.values())


def test_the_newest_run_that_fits_is_taken(tmp_path: Path) -> None:
    said: list[str] = []
    ids = {
        "20250101T000000Z-h100-0001": {},
        "20250102T000000Z-h100-0002": {},
        "20250103T000000Z-h100-0003": {"precision": "fp32"},
        "20250104T000000Z-h100-0004": {"purpose": "aa"},
        "20250105T000000Z-h100-0005": {"options": {arm: {} for arm in OPTIONS}},
    }
    for run_id, head in ids.items():
        write_run(run_of(run_id=run_id, **head), tmp_path)
    (tmp_path / "h100" / "20250106T000000Z-h100-0006.jsonl").write_text("torn\n")
    runs = timed_runs(tmp_path, "h100", said.append)
    assert [run.head.run_id[-4:] for run in runs] == ["0005", "0003", "0002", "0001"]
    found = newest_achieved(runs, "fp16", COUNTED, OPTIONS)
    assert found.run_id == "20250102T000000Z-h100-0002"
    assert len(said) == 1
    assert "0006" in said[0]
    none = newest_achieved(runs[:2], "fp16", COUNTED, OPTIONS)
    assert (none.times, none.run_id) == ({}, None)
    assert all("other options" in text for text in none.reasons.values())
    assert timed_runs(tmp_path, "a10", said.append) == []
    nothing = newest_achieved([], "fp16", COUNTED, OPTIONS)
    assert nothing.reasons[CASE, BASELINE] == "no run is stored"


def test_the_table_shows_shares_of_a_run() -> None:
    found = roofline(RUN)
    table = case_table(found.cases[CASE], plain_table).splitlines()
    whole = next(line.split() for line in table if "image" in line and OPTIMIZED in line)
    entry = found.cases[CASE][OPTIMIZED].whole
    assert whole[2] == "0.00500"
    assert float(whole[-1]) == pytest.approx(entry.percent_of("measured") or 0, abs=0.5)
    stages = [line.split()[1] for line in table if line.startswith(OPTIMIZED)]
    assert stages == [*found.cases[CASE][OPTIMIZED].stages, "image"], "every stage has its row"
    assert {"scheduler", "color_fix"} & set(stages), "timed, though nothing was counted"


def test_without_a_run_the_page_says_what_to_do(tmp_path: Path) -> None:
    found = roofline()
    file = tmp_path / "ceilings.json"
    text = console_text(found, {}, file)
    assert "srbench run --gpu h100" in text
    assert "--measure" in text
    assert "no run is stored" in text
    page = markdown_text(found, {}, file, "a.svg")
    assert page.startswith("# Roofline: NVIDIA H100, fp16\n\n![")
    assert "](a.svg)" in page
    assert "\n| --- | --- | ---: |" in page
    assert "![" not in markdown_text(found, {}, file, None)
    assert "No times: no run is stored. To measure them" in page
    assert "No times" not in "".join(notes(roofline(RUN), file))


def test_cards_are_laid_beside_each_other() -> None:
    cards = {
        name: limits
        for name in ("a10", "h100")
        if (limits := datasheet_limits(load_profile(name), "fp16")) is not None
    }
    lines = card_table(roofline(), cards, plain_table).splitlines()
    assert lines[0].split()[-4:] == ["a10", "s", "h100", "s"]
    slow, fast = (float(text) for text in lines[2].split()[-2:])
    # Both products are compute-bound on the A10 and memory-bound on the H100... each by its peaks.
    assert slow == pytest.approx(2 * max(0.5e9 / 125e12, 4e6 / 600e9) + 4 * 8e6 / 600e9, rel=1e-2)
    assert fast < slow


def test_points_are_drawn_where_there_is_work() -> None:
    found = points(roofline(RUN))
    assert {point.stage for point in found} == {"unet", "vae_encode", "image"}
    unet = next(point for point in found if point.stage == "unet")
    assert unet.flop_per_byte == pytest.approx(1e9 / 8e6), "of the ideal traffic, at fp16"
    assert all(point.tflop_per_s for point in found)
    figure = roofline_figure(roofline(RUN))
    assert figure is not None
    assert [axes.get_title() for axes in figure.axes] == [BASELINE, OPTIMIZED]
    for axes in figure.axes:
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    legend = figure.legends[-1].get_texts()
    assert [text.get_text().partition(":")[0] for text in legend] == ["datasheet", "measured"]
    assert RUN.head.run_id in figure.get_suptitle()
    assert any(text.get_text() == "conv" for text in figure.axes[0].texts)


def test_without_times_ticks_mark_intensities() -> None:
    untimed = roofline_figure(roofline())
    assert untimed is not None
    assert "no time was measured, ticks mark" in untimed.get_suptitle()
    axes = untimed.axes[0]
    assert {"unet", "vae_encode", "image"} <= {text.get_text() for text in axes.texts}
    assert not any(line.get_marker() in ("o", "s") for line in axes.lines), "no rate is claimed"


def test_nothing_is_drawn_of_a_pipeline_without_bytes() -> None:
    bare = {key: replace(WORK, operators=[]) for key in COUNTED}
    achieved = Achieved(run_id=None, times={}, reasons={})
    found = build_roofline(load_profile("h100"), "fp16", bare, achieved, None, [])
    assert roofline_figure(found) is None


def test_the_limits_of_a_run_are_kept_for_its_report(tmp_path: Path) -> None:
    assert write_limits(tmp_path, roofline()) is None
    assert read_limits(tmp_path, RUN.head) == {}
    path = write_limits(tmp_path, roofline(RUN))
    assert path == limits_path(tmp_path, "h100", RUN.head.run_id)
    kept = read_limits(tmp_path, RUN.head)
    assert set(kept[CASE]) == {BASELINE, OPTIMIZED}
    assert kept[CASE][BASELINE] == roofline(RUN).cases[CASE][BASELINE].whole.limits_ms
    assert path is not None
    for damage in ("{", "[]", '{"kind": "limits", "schema_version": 9, "limits_ms": {}}'):
        path.write_text(damage)
        with pytest.raises(UsageError, match="damaged") as error:
            read_limits(tmp_path, RUN.head)
        assert "\n" not in str(error.value)


def test_synthetic_weights_are_said_everywhere(tmp_path: Path) -> None:
    found = roofline(run_of(weights={"synthetic": True, "label": "mini", "kind": "mini"}))
    page = markdown_text(found, {}, tmp_path, None)
    title, warning = page.split("\n\n")[:2]
    assert title == "# Roofline: NVIDIA H100, fp16, SYNTHETIC weights"
    assert warning.startswith("**SYNTHETIC weights** (mini): counts and limits are of")
    assert f"## {CASE}: NVIDIA H100, fp16, SYNTHETIC weights, times of" in page
    assert console_text(found, {}, tmp_path).startswith("SYNTHETIC weights (mini)")
    figure = roofline_figure(found)
    assert figure is not None
    assert "SYNTHETIC weights" in figure.get_suptitle()
    trained = markdown_text(roofline(run_of(weights={"synthetic": False})), {}, tmp_path, None)
    assert "SYNTHETIC" not in trained


def test_a_card_without_a_limit_keeps_its_name(tmp_path: Path) -> None:
    achieved = Achieved(run_id=None, times={}, reasons={})
    found = build_roofline(load_profile("h200"), "fp32", COUNTED, achieved, None, [])
    title, warning = markdown_text(found, {}, tmp_path, None).split("\n\n")[:2]
    assert title == f"# Roofline: {load_profile('h200').title}, fp32"
    assert "has no fp32 peak" in warning
    assert "has no fp32 peak" in console_text(found, {}, tmp_path).splitlines()[0]
    assert roofline_figure(found) is None


def test_ceilings_of_another_precision_are_not_shown(tmp_path: Path) -> None:
    ceilings = CeilingsFile(
        profile="h100", device="cuda", precision="fp32", measured_at="then", srbench_version="0",
        fingerprint={}, ceilings=[],
    )  # fmt: skip
    text = console_text(replace(roofline(), ceilings=ceilings), {}, tmp_path)
    assert "they are not used" in text
    assert "Ceilings measured on" not in text
    same = replace(roofline(), ceilings=replace(ceilings, precision="fp16"))
    assert "Ceilings measured on" in console_text(same, {}, tmp_path)


def cell(table: Table, row: int, column: str) -> float | None:
    return table.rows[row][table.header.index(column)].key


def test_a_report_shows_the_share_of_the_limit(tmp_path: Path) -> None:
    model = build_model(RUN)
    bare = limit_table(model)
    assert bare is not None
    assert "% of limit" not in bare.header
    assert "srbench roofline --run" in bare.notes[0]
    times = times_of(RUN, CASE, BASELINE)
    assert times is not None
    seconds = times.latency_ms / 1e3
    assert cell(bare, 0, "TFLOP/s") == pytest.approx(5e9 / seconds / 1e12)
    assert cell(bare, 0, "% of peak arithmetic") == pytest.approx(100 * 5e9 / seconds / 989e12)
    write_limits(tmp_path, roofline(RUN))
    whole = limit_table(build_model(RUN, read_limits(tmp_path, RUN.head)))
    assert whole is not None
    assert len(whole.rows) == 2
    limit_s = cell(whole, 0, "limit s")
    assert limit_s is not None
    assert cell(whole, 0, "% of limit") == pytest.approx(100 * limit_s / seconds)
    assert cell(whole, 0, "% of ceiling") is not None


def test_a_run_without_counts_or_times_has_no_such_table() -> None:
    plain = make_run(cases=[CASE], blocks=1)
    uncounted = replace(plain, cells=[replace(each, work={}) for each in plain.cells])
    assert limit_table(build_model(uncounted)) is None
    simulated = run_of(purpose="simulation")
    assert limit_table(build_model(simulated)) is None
