"""Files of a whole fleet: read and reported like any others, and never taken for measurements."""

from pathlib import Path

import pytest

from srbench.cli.judge import report
from srbench.errors import UsageError
from srbench.simulation.fleet import CARDS, CASES, SPEEDUPS, Fleet, write_fleet
from srbench.stats.runs import block_log_ratios, cells_of
from srbench.stats.speedup import speedup
from srbench.store import list_runs, read_run

SMALL = Fleet(nodes=8, blocks=2, pairs=2, seed=3)


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("fleet") / "results"
    write_fleet(SMALL, out)
    return out


def test_every_node_has_a_whole_run_of_its_own(fleet: Path) -> None:
    runs = [read_run(path) for path in list_runs(fleet)]
    assert len(runs) == 8
    assert {run.head.profile for run in runs} == set(CARDS)
    assert len({run.head.fingerprint["gpu_uuid"] for run in runs}) == 8
    for run in runs:
        assert run.ended
        assert run.finished_blocks == {0, 1}
        assert all(len(cell.samples) == 2 for cell in run.cells)
        assert len(run.cells) == 2 * len(CASES) * 2
        state = run.cells[0].samples[0]["state"]
        assert {"sm_clock_mhz", "throttle_reasons"} <= state["after"].keys()
        assert run.head.purpose == "simulation"
        candidate = run.head.pipelines[1]
        found = speedup(list(block_log_ratios(run, CASES[0], candidate).values()))
        assert found is not None
        assert found.value == pytest.approx(SPEEDUPS[run.head.profile], rel=0.1)


def test_turns_are_those_of_the_plan(fleet: Path) -> None:
    run = read_run(list_runs(fleet)[0])
    baseline, candidate = run.head.pipelines
    for case in CASES:
        for ours, theirs in zip(
            cells_of(run, case, candidate), cells_of(run, case, baseline), strict=True
        ):
            turns = [sample["position"] for cell in (ours, theirs) for sample in cell.samples]
            assert sorted(turns) == [0, 1, 2, 3]


def test_the_same_seed_writes_the_same_files(fleet: Path, tmp_path: Path) -> None:
    for path in write_fleet(SMALL, tmp_path):
        assert path.read_bytes() == (fleet / path.relative_to(tmp_path)).read_bytes()


def _report(*paths: Path | str, out: Path, pages: bool | None = None, results: Path) -> None:
    report(list(map(str, paths)), out=out, group=None, pages=pages, results=results)


def test_more_runs_than_pages_are_reported_together(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = list_runs(fleet)
    damaged = tmp_path / "damaged.jsonl"
    lines = paths[0].read_text().splitlines(keepends=True)
    damaged.write_text("".join([*lines[:5], "{\n", *lines[5:]]))
    _report(*paths, damaged, out=tmp_path / "out", pages=False, results=fleet)
    said = capsys.readouterr()
    assert said.out == f"{tmp_path / 'out' / 'cards.md'}\n"
    assert "no page of each of the 9 runs" in said.err
    assert "damaged.jsonl: line 6 is damaged" in said.err
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "cards.html",
        "cards.md",
        "cards_speedup.svg",
    ]
    page = (tmp_path / "out" / "cards.md").read_text()
    assert "damaged.jsonl: line 6 is damaged" in page
    assert "2 nodes" in page
    assert "SIMULATED" in page
    with pytest.raises(UsageError, match=r"no run is left.*line 6"):
        _report(damaged, out=tmp_path / "none", pages=False, results=fleet)


def test_runs_of_several_cards_have_pages_and_the_combined_one(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [path.stem for path in list_runs(fleet)[:5:4]]
    _report(*names, out=tmp_path, results=fleet)
    said = capsys.readouterr().out.splitlines()
    assert [Path(line).name for line in said] == ["a10.md", "h200.md", "cards.md"]
    assert all(Path(line).is_file() for line in said)


def test_a_single_card_has_no_combined_page(
    fleet: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _report(list_runs(fleet)[0], out=tmp_path, results=fleet)
    assert [Path(line).name for line in capsys.readouterr().out.splitlines()] == ["a10.md"]
    assert not (tmp_path / "cards.md").exists()
