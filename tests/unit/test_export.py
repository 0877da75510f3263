from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pytest_benchmark.stats import Stats

from srbench.errors import UsageError
from srbench.records import Run
from srbench.report.export import Format, benchmark_document, export_pieces, frame
from srbench.report.export.benchmark import describe
from tests.factories import BASELINE, CASES, OPTIMIZED, change_cell, change_head, make_run

STATE = {
    "before": {"sm_clock_mhz": 1410, "power_w": 61.5, "temperature_c": 40, "throttle_reasons": 4},
    "after": {"sm_clock_mhz": 1395, "power_w": 148.0, "temperature_c": None},
}


def export_bytes(runs: list[Run], kind: Format) -> bytes:
    return b"".join(export_pieces(runs, kind))


def _run(**changes: Any) -> Run:
    """Two blocks; one sample with clocks and a hash, one cell out of memory."""
    run = make_run(blocks=2, pairs=3, **changes)
    sample = run.cells[0].samples[0] | {"state": STATE, "output_sha256": "ab", "gpu_ms": 1.5}
    run = change_cell(run, 0, samples=[sample, *run.cells[0].samples[1:]])
    return change_cell(run, 1, outcome="oom", reason="asked for 12 GiB", samples=[])


def test_every_sample_is_a_row_and_nothing_is_rounded() -> None:
    run = _run()
    table = frame([run])
    timed = table.dropna(subset="latency_ms")
    assert len(timed) == sum(len(cell.samples) for cell in run.cells)
    stored = [s["latency_ms"] for cell in run.cells for s in cell.samples]
    assert sorted(timed["latency_ms"]) == sorted(stored)
    assert set(table["run"]) == {run.head.run_id}
    first = table[(table.case == "48x32x4") & (table.pipeline == BASELINE)].iloc[0]
    assert (first.width, first.height, first.scale, first.block, first.pair) == (48, 32, 4, 0, 0)
    assert (first.sm_clock_mhz_before, first.power_w_after) == (1410, 148.0)
    assert pd.isna(first.temperature_c_after)
    assert (first.output_sha256, first.gpu_ms) == ("ab", 1.5)
    assert first.stage_unet_ms == run.cells[0].samples[0]["stages_ms"]["unet"]


def test_cell_without_samples_is_one_row_with_its_outcome() -> None:
    table = frame([_run()])
    broken = table[table.outcome != "ok"]
    assert len(broken) == 1
    row = broken.iloc[0]
    assert (row.outcome, row.reason, row.pipeline) == ("oom", "asked for 12 GiB", OPTIMIZED)
    assert pd.isna(row.latency_ms)
    assert pd.isna(row["pair"])


def test_stages_are_columns_in_execution_order() -> None:
    names = [name for name in frame([_run()]).columns if name.startswith("stage_")]
    assert names[:2] == ["stage_degradation_ms", "stage_vae_encode_ms"]
    assert names[-1] == "stage_postprocess_ms"


def test_run_without_a_cell_keeps_the_columns() -> None:
    table = frame([replace(_run(), cells=[])])
    assert len(table) == 0
    assert {"run", "case", "latency_ms", "outcome"} <= set(table.columns)


def test_case_that_is_no_size_has_no_size() -> None:
    run = change_head(make_run(cases=["8x8x2"], blocks=1), cases=["wavelet"])
    run = replace(run, cells=[replace(cell, case="wavelet") for cell in run.cells])
    assert frame([run])["width"].isna().all()


def test_csv_parquet_and_json_read_back_alike() -> None:
    runs = [_run(seed=1), _run(seed=2)]
    table = frame(runs)
    for back in (
        pd.read_csv(StringIO(export_bytes(runs, "csv").decode())),
        pd.read_parquet(BytesIO(export_bytes(runs, "parquet"))),
        pd.DataFrame(json.loads(export_bytes(runs, "json"))),
    ):
        assert list(back.columns) == list(table.columns)
        assert back["latency_ms"].tolist()[:4] == table["latency_ms"].tolist()[:4]
        assert set(back["run"]) == {run.head.run_id for run in runs}
        assert len(back) == len(table)
    assert pd.read_parquet(BytesIO(export_bytes(runs, "parquet"))).dtypes["pair"] == "Int64"


def test_missing_pyarrow_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("srbench.report.export.files.find_spec", lambda _: None)
    with pytest.raises(UsageError, match=r"pyarrow is missing; pip install srbench\[parquet\]"):
        export_bytes([_run()], "parquet")


@given(st.lists(st.floats(1e-6, 1e3), min_size=1, max_size=40))
def test_statistics_are_those_of_pytest_benchmark(seconds: list[float]) -> None:
    theirs = Stats()
    for value in seconds:
        theirs.update(value)
    ours = describe(seconds)
    # Values on the very edge of a band may be counted either way by a last bit.
    counts = {"outliers", "stddev_outliers", "iqr_outliers", "ld15iqr", "hd15iqr"}
    wanted = theirs.as_dict()
    assert ours.keys() == wanted.keys() | {"data", "iterations"}
    for key in wanted.keys() - counts:
        assert ours[key] == pytest.approx(wanted[key], rel=1e-9, abs=1e-12), key
    assert ours["outliers"] == f"{ours['stddev_outliers']};{ours['iqr_outliers']}"


def test_outliers_are_counted_as_pytest_benchmark_does() -> None:
    seconds = [1.0, 1.1, 1.2, 1.1, 1.0, 1.15, 9.0]
    theirs = Stats()
    for value in seconds:
        theirs.update(value)
    ours = describe(seconds)
    assert {key: ours[key] for key in theirs.fields} == pytest.approx(theirs.as_dict())
    assert (ours["iqr_outliers"], ours["hd15iqr"]) == (1, 1.2)


def _pytest_benchmark(*arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "pytest_benchmark", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


def test_pytest_benchmark_compares_two_runs(tmp_path: Path) -> None:
    storage = tmp_path / "Linux-CPython-3.11-64bit"
    storage.mkdir()
    for number, run in enumerate([_run(seed=1), _run(seed=2, slowdown=1.5)], 1):
        path = storage / f"000{number}_{run.head.run_id}.json"
        path.write_bytes(export_bytes([run], "pytest-benchmark"))
    table = _pytest_benchmark("compare", *sorted(storage.iterdir()))
    assert table.count(f"{OPTIMIZED}[64x64x2]") == 2
    assert all(f"benchmark '{case}'" in table for case in CASES)
    arguments = ("compare", "--between=median", "--sort=name", *sorted(storage.iterdir()))
    assert f"{BASELINE}[96x64x2]" in _pytest_benchmark(*arguments)
    assert "0002_" in _pytest_benchmark("--storage", tmp_path, "list")


def test_benchmarks_hold_seconds_of_the_cells_that_ended_well() -> None:
    run = _run()
    document = benchmark_document(run)
    by_name = {bench["fullname"]: bench for bench in document["benchmarks"]}
    assert len(by_name) == len(CASES) * 2
    bench = by_name[f"srbench::{OPTIMIZED}[48x32x4]"]
    assert bench["stats"]["rounds"] == 3
    assert bench["stats"]["data"][0] == run.cells[7].samples[0]["latency_ms"] / 1000
    assert bench["group"] == "48x32x4"
    assert bench["extra_info"]["run"] == run.head.run_id


def test_pytest_benchmark_needs_one_run_with_samples() -> None:
    with pytest.raises(UsageError, match="a file holds one run"):
        export_bytes([_run(), _run()], "pytest-benchmark")
    with pytest.raises(UsageError, match="no timed image to export"):
        benchmark_document(replace(_run(), cells=[]))
