from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from srbench.records import Run
from srbench.report.history import MOST_RUNS, history, same_series, stored_runs
from tests.factories import CASES, OPTIMIZED, QUIET, change_cell, change_head, make_run, write_run


def _nightly(day: int, **changes: Any) -> Run:
    """The run of one night; `day` decides its place and seed, not its speed."""
    run = make_run(**({"seed": day, "noise": QUIET, "blocks": 3} | changes))
    month, date = divmod(day, 28)
    return change_head(
        run,
        run_id=f"run-{day:04}",
        started_at=f"{2020 + month // 12}-{month % 12 + 1:02}-{date + 1:02}T00:00:00+00:00",
        arms={OPTIMIZED: {"commit": f"{day:040x}"}},
    )


def test_a_slow_down_is_found_where_it_began() -> None:
    runs = [_nightly(day, slowdown=1.0 if day < 8 else 1.05) for day in range(16)]
    found = history(runs[::-1], runs[-1])
    assert found.runs == 16
    assert [series.case for series in found.series] == CASES
    for series in found.series:
        assert [point.run_id for point in series.points] == [run.head.run_id for run in runs]
        steps = {step.metric: step for step in series.steps}
        assert steps.keys() == {"speedup", "candidate_ms"}
        assert steps["speedup"].run_id == "run-0008"
        assert steps["speedup"].commit == f"{8:040x}"
        assert steps["speedup"].change == pytest.approx(1 / 1.05 - 1, abs=0.01)
        assert steps["candidate_ms"].change == pytest.approx(0.05, abs=0.02)
        assert [(level.start, level.end) for level in series.levels] == [(0, 8), (8, 16)]
        assert series.levels[0].value == pytest.approx(2.0, rel=0.01)


def test_memory_steps_and_nothing_else() -> None:
    runs = [_nightly(day, peak_growth=1.0 if day < 6 else 1.1) for day in range(12)]
    for series in history(runs, runs[0]).series:
        assert [(step.metric, step.run_id) for step in series.steps] == [("peak_bytes", "run-0006")]
        assert series.steps[0].change == pytest.approx(0.1, abs=1e-4)


def test_a_level_history_has_no_step() -> None:
    runs = [_nightly(day) for day in range(20)]
    found = history(runs, runs[-1])
    assert found.series
    assert all(not series.steps and len(series.levels) == 1 for series in found.series)


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "fp16"},
        {"profile": "a10"},
        {"purpose": "aa"},
        {"tf32": True},
        {"weights": {"digest": "00"}},
        {"options": {}},
        {"pipelines": ["s3diff-baseline", "other"]},
        {"fingerprint": {"cpu_model": "Another CPU"}},
    ],
)
def test_other_measurements_are_no_history(change: dict[str, Any]) -> None:
    like, other = _nightly(1), change_head(_nightly(0), **change)
    assert not same_series(other.head, like.head)
    assert history([other], like).series == []


def test_another_commit_torch_or_seed_is_history() -> None:
    fingerprint = {"cpu_model": "Some CPU", "commit": "ff", "versions": {"torch": "9"}}
    other = change_head(_nightly(0), fingerprint=fingerprint, seed=7)
    assert len(history([other], _nightly(1)).series) == len(CASES)


def test_unfinished_runs_and_other_inputs_are_left_out() -> None:
    like = _nightly(9)
    other_input = {case: like.head.inputs[case] for case in CASES[1:]} | {CASES[0]: {"sha256": "x"}}
    runs = [
        replace(_nightly(0), ended=False),
        change_head(_nightly(1), inputs=other_input),
        like,
    ]
    found = history(runs, like)
    assert found.runs == 2
    assert [series.case for series in found.series] == CASES[1:]


def test_the_run_itself_counts_once_and_even_unfinished() -> None:
    like = replace(_nightly(3), ended=False)
    found = history([_nightly(2), like, like], like)
    assert found.runs == 2
    assert [len(series.points) for series in found.series] == [2, 2, 2]


def test_a_damaged_earlier_run_leaves_a_gap() -> None:
    broken = _nightly(0)
    index = next(i for i, cell in enumerate(broken.cells) if cell.case == CASES[0])
    samples = [sample | {"latency_ms": 0.0} for sample in broken.cells[index].samples]
    broken = change_cell(broken, index, samples=samples)
    found = history([broken, _nightly(1)], _nightly(2))
    assert [len(series.points) for series in found.series] == [2, 3, 3]


def test_a_single_run_has_no_series() -> None:
    assert history([], _nightly(0)).series == []


def test_stored_runs_reads_what_belongs_and_says_what_it_cannot_read(tmp_path: Path) -> None:
    like = _nightly(5)
    for run in (_nightly(1), _nightly(0), like, change_head(_nightly(2), precision="fp16")):
        write_run(run, tmp_path)
    damaged = write_run(_nightly(3), tmp_path)
    lines = damaged.read_text().splitlines()
    damaged.write_text("\n".join([lines[0], "{torn", *lines[2:]]) + "\n")
    (tmp_path / "cpu" / "notes.jsonl").write_text("no results\n")
    said: list[str] = []
    runs = stored_runs(tmp_path, like, said.append)
    assert [run.head.run_id for run in runs] == ["run-0000", "run-0001"]
    assert len(said) == 1
    assert "run-0003.jsonl: line 2 is damaged" in said[0]


def test_no_results_folder_is_no_history(tmp_path: Path) -> None:
    assert stored_runs(tmp_path / "none", _nightly(0), pytest.fail) == []


def test_a_long_history_is_cut_to_the_newest() -> None:
    first = _nightly(0)
    runs = [
        change_head(first, run_id=f"r{n:04}", started_at=f"{2000 + n // 12}-{n % 12 + 1:02}-01")
        for n in range(MOST_RUNS + 5)
    ]
    found = history(runs, runs[-1])
    assert found.runs == MOST_RUNS
    assert found.series[0].points[0].run_id == "r0005"
