from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from srbench.errors import SrbenchError
from srbench.gate import Policy, judge
from srbench.records import Run, VoidRecord
from srbench.report import write_report, write_reports
from srbench.report.crops import decode_png
from srbench.report.history import History, history
from srbench.report.html import render_page
from srbench.report.html.charts import history_chart, interval_chart, stage_chart
from srbench.report.html.measured import outcome_table, void_table
from srbench.report.html.svg import Scale
from srbench.report.model import build_model
from tests.factories import (
    BASELINE,
    CASES,
    OPTIMIZED,
    change_cell,
    change_fidelity,
    change_head,
    make_run,
)

NO_HISTORY = History(runs=1, series=[])
VOID_ELEMENTS = {"meta", "link", "img", "input", "br"}


class _Reader(HTMLParser):
    """The page as tables, texts of sections, and every attribute; checks that tags are closed."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self.feed(page)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in VOID_ELEMENTS:
            self._open.append(tag)
        if tag == "table":
            self._rows = self.tables.setdefault(str(dict(attrs)["aria-label"]), [])
        elif tag == "tr":
            self._rows.append([])
        elif tag in ("td", "th"):
            self._rows[-1].append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] in ("script", "style"):
            self.scripts.append(data)
            return
        self.text.append(data)
        if {"td", "th"} & set(self._open):
            self._rows[-1][-1] += data


def _render(run: Run, *, judged: bool = True, past: History = NO_HISTORY) -> str:
    return render_page(build_model(run), judge(run, Policy()) if judged else None, past)


def _words(page: str) -> str:
    return " ".join(" ".join(_Reader(page).text).split())


def _table(page: str, caption: str) -> list[list[str]]:
    return next(rows for name, rows in _Reader(page).tables.items() if name.startswith(caption))


def test_the_speed_table_has_the_columns_and_numbers_of_the_markdown_page(tmp_path: Path) -> None:
    run = make_run(profile="a10", cases=["720x1280x2", "512x512x2"], synthetic=False, speedup=4.0)
    lines = write_report([run], tmp_path).read_text(encoding="utf-8").splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("| Image Size"))
    markdown = [
        [cell.strip(" *") for cell in line.strip("|").split("|")]
        for line in [lines[start], *lines[start + 2 : start + 5]]
    ]
    html = _table((tmp_path / "a10.html").read_text(encoding="utf-8"), "Speed-up and fidelity")
    assert [[cell.split(" [")[0] for cell in row] for row in markdown] == html
    assert html[1][:2] == ["720x1280", "x2"]
    assert html[3][0] == "Geometric mean of 2"


def test_the_page_asks_the_network_for_nothing_and_lets_only_its_own_script_run() -> None:
    page = _render(make_run(crops=True))
    reader = _Reader(page)
    policy = next(v for _, name, v in reader.attributes if name == "content" and "src" in str(v))
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:;")
    assert "unsafe" not in policy
    style, script = reader.scripts
    for text in (style, script):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy
    sources = [value for _, name, value in reader.attributes if name in ("src", "href")]
    assert sources
    assert all(str(source).startswith(("data:", "#")) for source in sources)
    assert not re.search(r"https?://|url\(|@import|fetch\(|XMLHttp", style + script)
    assert not any(name == "style" or name.startswith("on") for _, name, _ in reader.attributes)


def test_text_of_a_results_file_is_never_markup() -> None:
    evil = "</script><script>alert('x')</script><img src=x onerror=\"y\">"
    arm = f"{OPTIMIZED}{evil}"
    run = make_run(crops=True, arms=[BASELINE, arm])
    run = change_cell(run, 0, outcome="crash", samples=[], reason=evil)
    run = change_fidelity(run, 0, not_measured={"lpips": evil}, providers={evil: evil})
    run = change_head(
        run,
        weights={"label": evil, "digest": evil},
        argv=["srbench", evil],
        fingerprint={"cpu_model": evil, "versions": {"torch": evil}, "commit": evil},
        options={arm: {evil: evil}},
    )
    voids = [VoidRecord(block=1, attempt=1, finished_at=evil, reasons=[evil])]
    run = replace(run, voids=voids)
    earlier = change_head(run, run_id=f"earlier{evil}", started_at="2020")
    page = _render(run, past=history([earlier], run))
    reader = _Reader(page)
    assert page.count("<script>") == 1
    assert len(reader.scripts) == 2
    assert not any(name == "onerror" for _, name, _ in reader.attributes)
    assert [row[-1] for row in _table(page, "Cells without a result")[1:]] == [evil]
    assert [row[-1] for row in _table(page, "Voided blocks")[1:]] == [evil]
    assert any(row[0].startswith("earlier</script>") for row in _table(page, arm)[1:])


def test_pages_of_runs_that_measured_no_device_say_so() -> None:
    for purpose, word in (("simulation", "SIMULATED"), ("aa", "A/A run"), ("run", "")):
        page = _words(_render(change_head(make_run(synthetic=False), purpose=purpose)))
        assert ("SIMULATED" in page) is (word == "SIMULATED")
        assert word in page
        assert "SYNTHETIC" not in page
    assert "SYNTHETIC weights: no network" in _words(_render(make_run()))
    assert "Not finished: 6 of 6" in _words(_render(replace(make_run(), ended=False)))


def test_energy_and_memory_columns_appear_where_something_was_measured() -> None:
    run = make_run()
    header = _table(_render(run), "Memory, energy and work")[0]
    assert "peak tensors MiB" in header
    assert not any("J/image" in title for title in header)
    energy = {"gross_j": 210.0, "net_j": 160.0, "polled_j": None, "idle_w": 50.0, "window_s": 10.0}
    cells = [
        replace(c, energy=energy, memory=c.memory | {"rss_peak_bytes": 3 << 30}) for c in run.cells
    ]
    rows = _table(_render(replace(run, cells=cells)), "Memory, energy and work")
    named = dict(zip(rows[0], rows[1], strict=True))
    assert named["J/image gross"] == "210"
    assert named["J/image less idle"] == "160"
    assert named["host RSS MiB"] == "3,072.0"
    assert "J/image polled" not in named
    old = [replace(cell, energy_j=99.0) for cell in run.cells]
    rows = _table(_render(replace(run, cells=old)), "Memory, energy and work")
    assert dict(zip(rows[0], rows[1], strict=True))["J/image gross"] == "99.0"


def test_every_reference_of_the_pictures_has_a_row_in_words() -> None:
    run = make_run()
    extra = [
        replace(run.fidelity[0], reference=role, metrics={"psnr": 61.5}, outcome=outcome)
        for role, outcome in (("fp32", "ok"), ("repeat", "ok"), ("other_seed", "crash"))
    ]
    rows = _table(_render(replace(run, fidelity=run.fidelity + extra)), "Likeness")
    first = [row for row in rows if row[0] == CASES[0]]
    named = {row[2]: row for row in first}
    assert named.keys() == {
        BASELINE,
        "baseline in fp32",
        "itself, worst of four more",
        "itself, other noise",
    }
    assert named["baseline in fp32"][3:5] == ["ok", "61.50"]
    assert named["itself, other noise"][3] == "crash"


def test_the_verdict_table_puts_what_did_not_pass_first_and_keeps_the_rest() -> None:
    run = make_run(psnr=20.0)
    judgement = judge(run, Policy())
    page = _render(run)
    rows = _table(page, "Checks that failed")
    passed = _table(page, "Checks that passed")
    assert rows[1][0] == "fail"
    assert rows[1][3] == "psnr"
    assert len(rows) - 1 + len(passed) - 1 == len(judgement.checks)
    assert f"Verdict: {judgement.word}" in _words(page)


def test_a_run_without_a_judgement_has_none_on_its_page(tmp_path: Path) -> None:
    write_report([change_head(make_run(), purpose="aa")], tmp_path)
    assert "The gate has no answer" in (tmp_path / "cpu.html").read_text(encoding="utf-8")


def test_a_run_with_one_arm_has_a_page(tmp_path: Path) -> None:
    write_report([make_run(arms=[BASELINE])], tmp_path)
    page = (tmp_path / "cpu.html").read_text(encoding="utf-8")
    assert "there is nothing to hold it against" in page
    assert "The gate has no answer" in page


def test_a_run_where_every_cell_failed_has_a_page() -> None:
    run = make_run()
    cells = [replace(cell, outcome="oom", samples=[], reason="asked 9 GiB") for cell in run.cells]
    page = _render(replace(run, cells=cells, fidelity=[]))
    rows = _table(page, "Cells without a result")
    assert len(rows) == 1 + 2 * len(CASES)
    assert rows[1][2:] == ["oom", "0–5", "asked 9 GiB"]
    assert "<svg" not in page


def test_thousands_of_things_that_went_wrong_stay_a_page() -> None:
    run = make_run(blocks=500, pairs=1, cases=CASES[:1])
    cells = [
        replace(cell, outcome="crash", reason=f"pid {index}", samples=[])
        for index, cell in enumerate(run.cells)
        if cell.block != 3
    ]
    blocks = [0, 1, 2, 4, 5, 400]
    alike = [replace(run.cells[0], block=b, outcome="oom", samples=[]) for b in blocks]
    void = VoidRecord(block=1, attempt=1, finished_at="now", reasons=["heat"])
    found = outcome_table(replace(run, cells=[*alike, *cells]))
    voids = void_table(replace(run, voids=[void] * 201))
    assert found is not None
    assert voids is not None
    assert found.rows[0][3].text == "0–2, 4, 5, 400"
    assert [len(table.rows) for table in (found, voids)] == [200, 200]
    assert found.notes == ["799 more are in the results file."]
    assert voids.notes == ["1 more are in the results file."]


def test_the_difference_is_eight_times_the_absolute_difference() -> None:
    run = make_run(crops=True)
    reader = _Reader(_render(run))
    images = [str(v) for tag, name, v in reader.attributes if (tag, name) == ("img", "src")]
    assert len(images) == 4 * len(CASES)
    baseline, candidate, difference, lr = (
        decode_png(uri.removeprefix("data:image/png;base64,"), "picture").astype(np.int64)
        for uri in images[:4]
    )
    assert difference.max() > 0
    np.testing.assert_array_equal(difference, np.clip(8 * abs(baseline - candidate), 0, 255))
    crops = run.fidelity[0].crops
    np.testing.assert_array_equal(lr, decode_png(crops["input"], "input"))


def test_damaged_crops_are_one_line() -> None:
    run = make_run(crops=True)
    crops = run.fidelity[0].crops
    odd = crops | {"candidate": crops["input"]}
    with pytest.raises(SrbenchError, match=f"crops of {CASES[0]} have different sizes"):
        _render(change_fidelity(run, 0, crops=odd))
    with pytest.raises(SrbenchError, match="is not a PNG"):
        _render(change_fidelity(run, 0, crops=crops | {"input": "PHN2Zz4="}))


def test_interval_chart_places_points_inside_their_intervals_and_marks_one() -> None:
    comparison = build_model(make_run(speedup=0.9)).comparisons[0]
    chart = interval_chart(comparison)
    assert chart is not None
    root = ElementTree.fromstring(chart)
    dots = [float(dot.attrib["cx"]) for dot in root.iter("circle")]
    spans = [
        sorted((float(line.attrib["x1"]), float(line.attrib["x2"])))
        for line in root.iter("line")
        if line.attrib["class"] == "span" and line.attrib["y1"] == line.attrib["y2"]
    ]
    unity = next(line for line in root.iter("line") if line.attrib["class"] == "unity")
    assert len(dots) == len(spans) == len(CASES) + 1
    for dot, (low, high) in zip(dots, spans, strict=True):
        assert low <= dot <= high < float(unity.attrib["x1"])
    assert interval_chart(build_model(make_run(blocks=1)).comparisons[0])


def test_stage_bars_are_as_long_as_their_share() -> None:
    chart = stage_chart(build_model(make_run(cases=CASES[:1], speedup=2.0)).comparisons[0])
    assert chart is not None
    widths: dict[str, list[float]] = {}
    for bar in ElementTree.fromstring(chart).iter("rect"):
        if bar.find("title") is not None:
            widths.setdefault(bar.attrib["class"], []).append(float(bar.attrib["width"]))
    unet, decode = widths["stage stage-unet"], widths["stage stage-vae-decode"]
    assert unet[0] / unet[1] == pytest.approx(2.0, rel=0.05)
    assert decode[0] / unet[0] == pytest.approx(0.35 / 0.3, rel=0.05)


def test_history_section_shows_levels_steps_and_numbers() -> None:
    runs = [
        change_head(
            make_run(seed=day, speedup=2.0 if day < 6 else 1.8),
            run_id=f"run-{day:02}",
            started_at=f"2025-03-{day + 1:02}T00:00:00+00:00",
        )
        for day in range(12)
    ]
    past = history(runs, runs[-1])
    root = ElementTree.fromstring(history_chart(past.series[0]))
    classes = [element.attrib["class"] for element in root]
    assert classes.count("level") == 2
    assert classes.count("step") == 1
    assert len(list(root.iter("circle"))) == 12
    page = _render(runs[-1], past=past)
    steps = _table(page, "Detected steps")
    assert {row[3] for row in steps[1:]} == {"run-06"}
    assert {row[-1] for row in steps[1:]} == {"worse"}
    change = next(row for row in steps if row[2] == "speed-up")[7]
    assert float(change.removesuffix(" %")) == pytest.approx(-10, abs=1)
    points = _table(page, f"{OPTIMIZED} on {CASES[0]}")
    assert [row[0] for row in points[1:]] == [run.head.run_id for run in runs]
    assert "no earlier run" in _words(_render(runs[0]))


@pytest.mark.parametrize("values", [[1.0], [2.9, 3.1], [1.0, 40.0], [0.0, 0.0], [1e-4, 3e-4]])
def test_ticks_are_round_and_inside_the_axis(values: list[float]) -> None:
    scale = Scale(values, 0, 100)
    ticks = scale.ticks()
    assert 1 <= len(ticks) <= 8
    for value, text in ticks:
        assert -1e-9 <= scale(value) <= 100 + 1e-9
        assert float(text) == pytest.approx(value, abs=1e-12)
    for value in values:
        assert 0 <= scale(value) <= 100


def test_runs_of_one_profile_get_a_page_each_and_one_run_the_short_name(tmp_path: Path) -> None:
    first, second = make_run(seed=1), make_run(seed=2)
    pages = write_reports([first, second, make_run(profile="l20")], tmp_path)
    names = {f"cpu_{run.head.run_id}.html" for run in (first, second)} | {"l20.html"}
    assert {path.name for path in tmp_path.glob("*.html")} == names
    assert pages == {"cpu": tmp_path / "cpu.md", "l20": tmp_path / "l20.md"}
    text = pages["cpu"].read_text(encoding="utf-8")
    assert all(f"]({name})" in text for name in names - {"l20.html"})
    page = (tmp_path / f"cpu_{second.head.run_id}.html").read_text(encoding="utf-8")
    assert "2 runs of the same measurement" in page


def test_the_same_run_gives_the_same_page() -> None:
    run = make_run(crops=True)
    assert _render(run) == _render(run)


def test_reason_that_no_utf8_can_hold_is_written_with_a_mark(tmp_path: Path) -> None:
    run = change_cell(make_run(), 0, outcome="crash", samples=[], reason="bad \udc80 byte")
    write_report([run], tmp_path)
    for name in ("cpu.html", "cpu.md"):
        assert "bad ? byte" in (tmp_path / name).read_text(encoding="utf-8")
