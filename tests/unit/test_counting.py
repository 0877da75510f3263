"""Runs that only count: the same on every machine, gated at zero tolerance."""

from pathlib import Path

import pytest

from srbench.config import Settings
from srbench.counting import begin_counting
from srbench.errors import UsageError
from srbench.gate.resources import work_counters
from srbench.records import Run
from srbench.report.counters import counter_table
from srbench.store import find_run

ARM = "tests.fixtures_pipelines:Bicubic"


def settings(out: Path, **changes: object) -> Settings:
    given: dict[str, object] = {
        "gpu": "meta",
        "cases": ("16x16x2", "32x16x2"),
        "pipelines": (f"a={ARM}", f"b={ARM}"),
        "out": out,
    }
    return Settings(**{**given, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Path]:
    return begin_counting(settings(tmp_path_factory.mktemp("results")), ["run"])


def test_a_run_of_counters_is_stored_like_any_other(done: tuple[Run, Path]) -> None:
    run, path = done
    assert find_run(run.head.run_id, path.parents[1]) == path
    assert path.parent.name == "meta"
    assert (run.head.purpose, run.head.device, run.ended) == ("work", "meta", True)
    assert run.head.arms["b"]["pipeline"] == ARM
    assert len(run.cells) == 4
    assert work_counters(run, "32x16x2", "a")["flops"] == 32 * 32 * 16 * 4
    assert all(not cell.samples and cell.outcome == "ok" for cell in run.cells)
    table = counter_table(run)
    assert table.count(" a ") == 2
    assert "0.000" in table


def test_counting_twice_gives_the_same(done: tuple[Run, Path], tmp_path: Path) -> None:
    again, _ = begin_counting(settings(tmp_path), [])
    assert done[0].cells == again.cells


def test_a_refused_option_is_an_error_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such option"):
        begin_counting(settings(tmp_path, options=("a.nonsense=1",)), [])
    assert not list(tmp_path.glob("meta/*.jsonl"))
