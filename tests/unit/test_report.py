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
from srbench.gate import Judgement, Policy, judge
from srbench.records import Run, VoidRecord
from srbench.report import write_report, write_reports
from srbench.report.crops import crop_figure, decode_png
from srbench.report.figures import latency_figure, stage_figure
from srbench.report.markdown import render
from srbench.report.model import Comparison, ReportModel, build_model
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
    assert len(captions) >= 4
    assert all("**SYNTHETIC weights**" in caption for caption in captions)
    assert "SYNTHETIC" in console_table(run)
    model = build_model(run)
    for draw in (latency_figure, stage_figure, crop_figure):
        figure = draw(model, model.comparisons[0])
        assert figure is not None
        assert "SYNTHETIC weights" in figure.get_suptitle()


def test_figures_lie_beside_the_page_and_are_reproducible(tmp_path: Path) -> None:
    run = make_run(crops=True)
    names = ["cpu.html", "cpu.md", "cpu_crops.png", "cpu_latency.svg", "cpu_stages.svg"]
    for folder in ("a", "b"):
        write_report([run], tmp_path / folder)
        assert sorted(path.name for path in (tmp_path / folder).iterdir()) == names
    for name in names:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    page = (tmp_path / "a" / "cpu.md").read_text()
    assert all(f"]({name})" in page for name in names if name != "cpu.md")
    with Image.open(tmp_path / "a" / "cpu_crops.png") as picture:
        assert picture.width > 1000


def test_outcomes_stand_where_numbers_would(tmp_path: Path) -> None:
    run = make_run()
    run = _broken(run, CASES[0], BASELINE, outcome="oom", reason="asked for 12 GiB")
    run = _broken(run, CASES[1], OPTIMIZED, outcome="crash", reason="signal 11 | core <module>")
    run = _broken(run, CASES[2], OPTIMIZED, outcome="timeout", reason="after 60 s")
    page = write_report([run], tmp_path).read_text()
    assert _cells(page, "| 48x32 | x4")[2] == "OOM"
    assert "crash: signal 11 \\| core &lt;module>" in page
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


def _page(run: Run, judgement: Judgement | None = None) -> str:
    return render(build_model(run), {}, judgement=judgement)


def test_verdict_stands_before_the_tables_with_every_open_check() -> None:
    run = change_fidelity(make_run(), 0, metrics={"psnr": 20.0, "worst_block_psnr": 9.0})
    page = _page(run, judge(run, Policy()))
    assert page.index("## Verdict: FAIL") < page.index("| Image Size")
    row = next(line for line in page.splitlines() if line.startswith("| fail | 48x32x4"))
    assert "psnr 48x32x4 20 dB" in row
    assert "checks passed</summary>" in page
    assert "Verdict" not in _page(run)


def test_warnings_of_the_judgement_are_shown() -> None:
    judgement = replace(judge(make_run(), Policy()), warnings=["other driver: 1, but x has 2"])
    assert "> other driver: 1, but x has 2" in _page(make_run(), judgement)


def test_simulated_run_says_so_wherever_it_says_synthetic() -> None:
    run = change_head(make_run(crops=True), purpose="simulation")
    page = _page(run)
    assert "**SIMULATED: a fake device made up every number here." in page
    captions = [line for line in page.splitlines() if line.startswith("*")][1:]
    assert len(captions) >= 4
    assert all("**SIMULATED**" in caption for caption in captions)
    assert "SIMULATED" in console_table(run)
    assert "SIMULATED" in latency_figure(*_first(run)).get_suptitle()
    assert "SIMULATED" not in _page(make_run(crops=True))


def _first(run: Run) -> tuple[ReportModel, Comparison]:
    model = build_model(run)
    return model, model.comparisons[0]


def test_voided_blocks_and_broken_cells_have_a_section() -> None:
    void = VoidRecord(block=2, attempt=1, finished_at="2025-01-02", reasons=["foreign process 77"])
    run = change_cell(replace(make_run(), voids=[void]), 1, outcome="crash", reason="killed")
    page = _page(run)
    assert "## What did not go well" in page
    assert "| foreign process 77 |" in page
    assert "- Voided: 1 disturbed block, measured again" in page
    assert _cells(page, "| 48x32x4 | s3diff-optimized | crash")[3:] == ["0", "killed"]
    assert "did not go well" not in _page(make_run())


def test_energy_is_shown_gross_and_net() -> None:
    cells = [
        replace(
            cell,
            energy_j=40.0 + cell.block,
            energy={"gross_j": 40.0 + cell.block, "net_j": 31.5, "idle_w": 60.0},
        )
        for cell in make_run(blocks=3).cells
    ]
    page = _page(replace(make_run(blocks=3), cells=cells))
    header = next(line for line in page.splitlines() if "J/image gross" in line)
    names = [name.strip() for name in header.strip("|").split("|")]
    rows = [line for line in page.split(header)[1].splitlines() if "baseline" in line]
    row = dict(zip(names, (cell.strip() for cell in rows[0].strip("|").split("|")), strict=True))
    assert (row["J/image gross"], row["J/image less idle"], row["idle W"]) == (
        "41.0",
        "31.5",
        "60.0",
    )
    assert "J/image" not in _page(make_run())


def test_other_references_have_a_table_of_their_own() -> None:
    run = make_run()
    assert "Likeness to other references" not in _page(run)
    roles = [
        replace(run.fidelity[0], reference=role, metrics={"psnr": value})
        for role, value in (("fp32", 51.25), ("repeat", 80.0), ("other_seed", 22.5))
    ]
    page = _page(replace(run, fidelity=[*run.fidelity, *roles]))
    section = page.split("Likeness to other references")[1]
    assert all(value in section for value in ("51.25", "80.00", "22.50"))


def test_sequential_and_block_paired_runs_are_described() -> None:
    run = change_head(make_run(), looks=[6, 10, 16], blocks=16, pairing="block", against="main")
    page = _page(run)
    assert "- Sequential: looks against main after 6, 10 and 16 blocks; decided after 6" in page
    assert "- Pairing: block" in page
    assert "take turns" not in page
    assert "Sequential" not in _page(make_run())


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
    names = ["cpu.html", "cpu.md", "cpu_latency.svg"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


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


def test_case_that_is_no_size_has_a_row_under_its_name() -> None:
    run = change_head(make_run(cases=["64x64x2"]), cases=["wavelet"])
    run = replace(run, cells=[replace(cell, case="wavelet") for cell in run.cells], fidelity=[])
    row = build_model(run).comparisons[0].rows[0]
    assert (row.image_size, row.sr_ratio, row.input_pixels) == ("wavelet", "–", None)
    assert _cells(_page(run), "| wavelet | –")[4].endswith("x")


def test_revisions_are_called_base_and_head() -> None:
    """`optimized` would be the name of both."""
    run = make_run()
    revision = {"pipeline": "p", "revision": None, "commit": None}
    both = dict.fromkeys(run.head.pipelines, revision)
    page = _page(change_head(run, arms=both))
    assert "Time cost(s) (base)" in page
    assert "Time cost(s) (optimized)" not in page
    assert "Time cost(s) (optimized)" in _page(run)
