from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from srbench.errors import SrbenchError, UsageError
from srbench.records import Run
from srbench.report import write_report, write_reports
from srbench.report.compare import compare_table
from srbench.report.crops import crop_figure, decode_png
from srbench.report.figures import latency_figure, stage_figure
from srbench.report.model import build_model
from srbench.report.tables import console_table
from srbench.report.text import significant
from tests.factories import (
    BASELINE,
    CASES,
    OPTIMIZED,
    change_cell,
    change_fidelity,
    change_head,
    make_run,
)

DOCUMENTED = ["128x128x4", "512x512x2", "720x1280x2", "1024x1024x2", "1920x1080x2"]


def _cells(page: str, start: str) -> list[str]:
    line = next(line for line in page.splitlines() if line.startswith(start))
    return [cell.strip() for cell in line.strip("|").split("|")]


def _broken(run: Run, case: str, arm: str, **changes: Any) -> Run:
    cells = [
        replace(c, samples=[], **changes) if (c.case, c.pipeline) == (case, arm) else c
        for c in run.cells
    ]
    return replace(run, cells=cells)


def test_page_has_the_published_columns_and_numbers(tmp_path: Path) -> None:
    run = make_run(profile="a10", cases=DOCUMENTED, synthetic=False, speedup=4.0)
    page = write_report([run], tmp_path).read_text(encoding="utf-8")
    header = _cells(page, "| Image Size")
    assert header[:5] == [
        "Image Size",
        "SR Ratio",
        "Time cost(s) (baseline)",
        "Time cost(s) (optimized)",
        "Speed Up",
    ]
    row = dict(zip(header, _cells(page, "| 720x1280 | x2"), strict=True))
    assert row["Published original s"] == "16.64"
    assert row["Published lyraDiff s"] == "3.36"
    assert row["Published Speed Up"] == "4.95x"
    times = [
        sample["latency_ms"]
        for cell in run.cells
        if (cell.case, cell.pipeline) == ("720x1280x2", BASELINE)
        for sample in cell.samples
    ]
    assert float(row["Time cost(s) (baseline)"]) == pytest.approx(np.median(times) / 1e3, rel=5e-3)
    assert row["Speed Up"].startswith(("3.9", "4.0"))
    assert row["PSNR dB"] == "75.00"
    assert "SYNTHETIC" not in page
    assert "**Geometric mean of 5**" in page
    assert "[1] LPIPS: no weights: run srbench weights fetch --metrics" in page


def test_synthetic_weights_are_labelled_everywhere(tmp_path: Path) -> None:
    run = make_run(crops=True)
    page = write_report([run], tmp_path).read_text(encoding="utf-8")
    assert "**SYNTHETIC weights: no network here was trained." in page
    captions = [line for line in page.splitlines() if line.startswith("*")][1:]
    assert len(captions) == 3
    assert all("**SYNTHETIC weights**" in caption for caption in captions)
    assert "SYNTHETIC" in console_table(run)
    model = build_model(run)
    for draw in (latency_figure, stage_figure, crop_figure):
        figure = draw(model, model.comparisons[0])
        assert figure is not None
        assert "SYNTHETIC weights" in figure.get_suptitle()


def test_figures_lie_beside_the_page_and_are_reproducible(tmp_path: Path) -> None:
    run = make_run(crops=True)
    names = ["cpu.md", "cpu_crops.png", "cpu_latency.svg", "cpu_stages.svg"]
    for folder in ("a", "b"):
        write_report([run], tmp_path / folder)
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    page = (tmp_path / "a" / "cpu.md").read_text()
    assert all(f"]({name})" in page for name in names[1:])
    with Image.open(tmp_path / "a" / "cpu_crops.png") as picture:
        assert picture.width > 1000


def test_outcomes_stand_where_numbers_would(tmp_path: Path) -> None:
    run = make_run()
    run = _broken(run, CASES[0], BASELINE, outcome="oom", reason="asked for 12 GiB")
    run = _broken(run, CASES[1], OPTIMIZED, outcome="crash", reason="signal 11 | core")
    run = _broken(run, CASES[2], OPTIMIZED, outcome="timeout", reason="after 60 s")
    page = write_report([run], tmp_path).read_text()
    assert _cells(page, "| 48x32 | x4")[2] == "OOM"
    assert "crash: signal 11 \\| core" in page
    assert "time-out: after 60 s" in page
    assert "**Geometric mean of 0**" in page
    assert "OOM" in console_table(run)


def test_case_that_never_ran_and_record_that_is_missing(tmp_path: Path) -> None:
    run = make_run()
    cells = [cell for cell in run.cells if cell.case != CASES[0]]
    run = replace(run, cells=cells, fidelity=[], ended=False)
    page = write_report([run], tmp_path).read_text()
    row = _cells(page, "| 48x32 | x4")
    assert row[2:5] == ["not measured", "not measured", "–"]
    assert row[-1] == "not measured"
    assert "(**not finished**)" in page
    run = change_fidelity(make_run(), 0, outcome="crash", reason="killed", metrics={})
    assert _cells(write_report([run], tmp_path).read_text(), "| 48x32 | x4")[8] == "crash"


def test_one_block_shows_no_interval() -> None:
    table = console_table(make_run(blocks=1))
    assert "n/a (1 block)" in table


def test_console_table_is_narrow_and_plain() -> None:
    table = console_table(make_run())
    assert max(len(line) for line in table.splitlines()) <= 110
    assert table.splitlines()[-1].split()[:2] == ["geomean", "1.99x"]


def test_runs_of_one_profile_share_a_page(tmp_path: Path) -> None:
    runs = [make_run(seed=1), make_run(seed=2), make_run(seed=3, profile="l20")]
    pages = write_reports(runs, tmp_path)
    assert sorted(pages) == ["cpu", "l20"]
    page = pages["cpu"].read_text()
    assert "CPU: 2 runs" in page
    assert all(run.head.run_id in page for run in runs[:2])
    assert (tmp_path / f"cpu_{runs[0].head.run_id}_latency.svg").is_file()
    assert write_report(runs, tmp_path) == tmp_path / "l20.md"


def test_several_candidates_have_a_table_each(tmp_path: Path) -> None:
    run = make_run(arms=[BASELINE, OPTIMIZED, "tests.x:Variant"])
    page = write_report([run], tmp_path).read_text()
    assert page.count("| Image Size") == 2
    assert (tmp_path / "cpu_tests.x-Variant_latency.svg").is_file()


def test_card_without_a_profile_is_reported(tmp_path: Path) -> None:
    run = make_run(profile="rtx-4090")
    page = write_report([run], tmp_path)
    assert page.name == "rtx-4090.md"
    assert "No times were published" in page.read_text()


def test_unmeasured_stages_and_crops_leave_no_figure(tmp_path: Path) -> None:
    run = make_run()
    bare = [
        replace(c, samples=[s | {"stages_ms": {}} for s in c.samples], memory={}, work={})
        for c in run.cells
    ]
    page = write_report([replace(run, cells=bare)], tmp_path).read_text()
    assert "No stage was timed." in page
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cpu.md", "cpu_latency.svg"]


def test_latency_axis_is_logarithmic_only_for_a_wide_range() -> None:
    for cases, scale in ((CASES, "linear"), (DOCUMENTED, "log")):
        model = build_model(make_run(cases=cases, profile="a10"))
        axes = latency_figure(model, model.comparisons[0]).axes[0]
        assert axes.get_yscale() == scale


def test_stage_bars_add_up_to_the_image() -> None:
    model = build_model(make_run())
    figure = stage_figure(model, model.comparisons[0])
    assert figure is not None
    first: dict[float, float] = {}
    for bar in figure.axes[0].patches:
        first[bar.get_y()] = first.get(bar.get_y(), 0.0) + bar.get_width()
    shares = sorted(first.values())
    assert shares[-len(CASES) :] == pytest.approx([100.0] * len(CASES), abs=0.5)
    assert shares[: len(CASES)] == pytest.approx([50.0] * len(CASES), abs=2)


def test_damaged_crop_is_one_line() -> None:
    with pytest.raises(SrbenchError, match="crop input of 48x32x4 is not a PNG"):
        decode_png("!!", "crop input of 48x32x4")
    with pytest.raises(SrbenchError, match="not a PNG"):
        decode_png("aGVsbG8=", "crop")


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=r"--out .*file: cannot be written"):
        write_report([make_run()], tmp_path / "file")
    with pytest.raises(UsageError, match="no run given"):
        write_report([], tmp_path)


def test_compare_gives_the_change_only_on_one_device() -> None:
    first, second = make_run(seed=1), make_run(seed=2, slowdown=1.2)
    table = compare_table(first, second)
    assert "B's ratio to A's" in table
    assert "+20." in table or "+19." in table
    other = compare_table(first, make_run(seed=2, profile="l20"))
    assert "no verdict: other GPU, cpu and l20" in other
    assert "B's ratio to A's" not in other


def test_compare_refuses_other_weights_and_names_lonely_cases() -> None:
    first = make_run(seed=1)
    with pytest.raises(SrbenchError, match="other weights"):
        compare_table(first, change_head(first, weights={"digest": "00"}))
    assert "only in one of the two: 96x64x2" in compare_table(first, make_run(cases=CASES[:2]))


def test_one_bad_block_is_shown_as_its_outcome() -> None:
    run = change_cell(make_run(), 1, outcome="crash", reason="killed", samples=[])
    row = build_model(run).comparisons[0].rows[0]
    assert row.candidate.outcome == "crash"
    assert row.speedup is not None
    assert row.speedup.blocks == 5


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.30612, "0.306"), (42.24, "42.2"), (1234.5, "1234"), (0.001234, "0.00123")],
)
def test_significant_digits(value: float, text: str) -> None:
    assert significant(value) == text


def test_reading_results_never_imports_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.factories import make_run\n"
        "from srbench.gate import Policy, judge\n"
        "from srbench.report import write_report\n"
        "assert not {'matplotlib', 'scipy', 'pandas'} & set(sys.modules)\n"
        "run = make_run(crops=True)\n"
        "judge(run, Policy(), make_run(seed=1), 'x')\n"
        f"write_report([run], Path({str(tmp_path)!r}))\n"
        "assert 'torch' not in sys.modules\n"
    )
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True, timeout=120)
