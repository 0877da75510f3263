"""What a machine can do to a run, and what becomes of the run: an outcome, a line, a resume."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest

from srbench.errors import ExitCode
from srbench.store import list_runs, newest_run, read_run
from tests.e2e.conftest import Srbench
from tests.e2e.leading import Show, begin_here, go_on, led
from tests.e2e.simulated import MARK, Folder, cells, latencies, marked, wait_until

pytestmark = pytest.mark.e2e

CASE, OTHER = "16x16x4", "24x16x4"
SMALL = ("--cases", CASE, OTHER, "--pairs", 2)
MIB = 2**20


def newest() -> Path:
    return list_runs(Path("results"))[-1]


def kinds(path: Path) -> list[str]:
    return [json.loads(line)["kind"] for line in path.read_text().splitlines()]


@pytest.fixture
def folder(tmp_path: Path, project_root: Path) -> Folder:
    return Folder(tmp_path, project_root)


def test_a_hang_is_a_timeout_and_its_process_group_is_killed(
    srbench: Srbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MARK, "hang")
    done = srbench(*("simulate", *SMALL, "--blocks", 1, "--plant", f"hang={OTHER}", "--timeout", 3))
    assert done.code == ExitCode.INFRASTRUCTURE
    run = read_run(newest())
    assert {(cell.case, cell.outcome) for cell in run.cells if cell.outcome != "ok"} == {
        (OTHER, "timeout")
    }
    assert len(latencies(run)) == 3
    assert wait_until(lambda: not marked("hang"), 5), "the worker's own child is left behind"


def test_out_of_memory_is_an_outcome_with_the_bytes_asked(srbench: Srbench) -> None:
    done = srbench("simulate", *SMALL, "--blocks", 1, "--plant", f"oom={OTHER}")
    assert done.code == ExitCode.INFRASTRUCTURE
    (broken,) = (cell for cell in read_run(newest()).cells if cell.outcome != "ok")
    assert (broken.case, broken.outcome) == (OTHER, "oom")
    asked = next(int(word) for word in (broken.reason or "").split() if word.isdecimal())
    assert asked > 24 * 2**30


def test_a_run_in_which_everything_is_out_of_memory_is_no_pass(srbench: Srbench) -> None:
    one = ("--cases", CASE, "--blocks", 1)
    assert srbench("simulate", *one, "--plant", f"oom={CASE}").code == ExitCode.INFRASTRUCTURE
    judged = srbench("gate", newest())
    assert judged.code == ExitCode.INFRASTRUCTURE
    assert len(judged.err.strip().splitlines()) == 1


def test_a_full_disk_ends_the_run_and_keeps_what_was_stored(srbench: Srbench) -> None:
    design = ("simulate", "--cases", "16x16x1", "24x16x1", "--pairs", 2, "--blocks", 3)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, hard))
    try:
        done = srbench(*design)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert done.code == ExitCode.INFRASTRUCTURE
    assert "cannot write" in done.err.splitlines()[-1]
    assert "Traceback" not in done.err
    stored = read_run(newest())
    assert 0 < len(stored.finished_blocks) < 3
    run = go_on(Path("results"))
    assert run.ended
    assert len(cells(run)) == 12
    assert latencies(stored).items() <= latencies(run).items()


@pytest.mark.parametrize("out", ["file", "file/results", "/proc/results"])
def test_a_results_folder_that_cannot_be_is_refused_before_anything_runs(
    srbench: Srbench, out: str
) -> None:
    Path("file").write_text("")
    done = srbench("simulate", "--out", out)
    assert done.code == ExitCode.USAGE
    assert out in done.err
    assert len(done.err.splitlines()) == 1


def test_two_runs_at_once_into_one_folder(srbench: Srbench, folder: Folder) -> None:
    with led(folder, Show(cases=(CASE,), blocks=1, pace_ms=30)) as first:
        assert wait_until(lambda: folder.file is not None)
        second = srbench("simulate", "--cases", CASE, "--blocks", 1)
        assert second.code == ExitCode.USAGE
        assert f"process {first.pid}" in second.err
        assert len(second.err.splitlines()) == 1
        first.join(60)
        assert first.exitcode == ExitCode.OK
    assert folder.run.ended
    assert len(list_runs(Path("results"))) == 1


def interrupt(process: subprocess.Popen[str], after: str) -> str:
    """Read stderr up to a line that holds a word, then press Ctrl-C."""
    assert process.stderr is not None
    for line in process.stderr:
        if after in line:
            process.send_signal(signal.SIGINT)
            return line
    raise AssertionError(f"'{after}' was never said")


def test_ctrl_c_finishes_the_block_and_twice_ends_at_once(folder: Folder) -> None:
    with folder.started("simulate", *SMALL, "--blocks", 2, "--pace", 10) as process:
        interrupt(process, "block 0")
        _, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "--resume" in err.splitlines()[-1]
    assert folder.run.finished_blocks == {0}
    assert not folder.run.ended
    with folder.started("simulate", "--resume", "--pace", 50) as process:
        interrupt(process, "block 1")
        interrupt(process, "Ctrl-C again")
        _, err = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "Traceback" not in err
    assert folder.run.finished_blocks == {0}
    assert wait_until(lambda: not folder.processes(), 5)
    with led(folder) as last:
        last.join(60)
    assert last.exitcode == ExitCode.OK
    assert folder.run.finished_blocks == {0, 1}
    assert kinds(folder.file or Path()).count("block") == 2


def test_a_disturbed_block_is_voided_and_repeated(tmp_path: Path) -> None:
    plants = ("foreign=0", "throttle=1")
    run = begin_here(Show(cases=(CASE, OTHER), blocks=2, pairs=2, plants=plants), tmp_path)
    assert [(void.block, void.attempt) for void in run.voids] == [(0, 1), (1, 1)]
    for void, reason in zip(run.voids, ("compute processes", "thermal"), strict=True):
        assert any(reason in line for line in void.reasons)
    assert run.finished_blocks == {0, 1}
    cells_of_block = ["cell"] * 4
    attempts = [*cells_of_block, "void", *cells_of_block, "block"]
    assert kinds(newest_run(tmp_path))[:21] == ["run", *attempts, *attempts]
    assert len(cells(run)) == len(run.cells) == 8


def test_a_voided_block_leaves_no_trace_in_the_numbers(tmp_path: Path) -> None:
    calm, hot = (
        begin_here(
            Show(cases=(CASE, OTHER), blocks=1, pairs=2, plants=plants), tmp_path / plants[-1]
        )
        for plants in (("bimodal",), ("bimodal", "throttle=0"))
    )
    assert len(hot.voids) == 1
    assert latencies(calm) == latencies(hot)


def test_a_device_that_is_never_free_ends_the_run_and_it_can_go_on(srbench: Srbench) -> None:
    one = ("--cases", CASE, "--pairs", 1, "--blocks", 1)
    for attempts, arguments in ((4, (*one, "--plant", "foreign")), (8, ("--resume",))):
        done = srbench("simulate", *arguments)
        assert done.code == ExitCode.INFRASTRUCTURE
        assert "disturbed 4 times" in done.err.splitlines()[-1]
        run = read_run(newest())
        assert [void.attempt for void in run.voids] == [1, 2, 3, 4] * (attempts // 4)
        assert not run.cells
        assert not run.ended


def test_a_sequential_run_is_resumed_with_its_looks(folder: Folder, srbench: Srbench) -> None:
    quiet = ("--cases", CASE, "--noise", "quiet", "--same-pipeline", "--until-decided")
    with folder.started("simulate", *quiet, "--pace", 5) as process:
        assert wait_until(lambda: folder.file is not None and bool(folder.run.finished_blocks))
        process.kill()
    assert wait_until(lambda: not folder.processes(), 5)
    done = srbench("simulate", "--resume")
    assert done.code == ExitCode.OK, done.err
    run = folder.run
    assert run.finished_blocks == set(range(6))
    assert json.loads((folder.file or Path()).read_text().splitlines()[-1])["decided_at"] == 6


@pytest.mark.full
def test_the_coordinators_memory_does_not_grow_with_the_samples(folder: Folder) -> None:
    show = Show(cases=("16x16x1", "24x16x1"), blocks=5, pairs=500)
    with led(folder, show) as process:
        resident = []
        for blocks in (1, 5):
            assert come_to(folder, blocks)
            pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
            resident.append(pages * os.sysconf("SC_PAGE_SIZE"))
    samples = sum(len(times) for times in latencies(folder.run).values())
    assert samples == 10_000
    assert all(resident), "it had ended: what is gone has no memory"
    assert resident[1] - resident[0] < 4 * MIB


def come_to(folder: Folder, blocks: int) -> bool:
    """Whether so many blocks are stored in time."""
    assert wait_until(lambda: folder.file is not None)
    seen = 0

    def enough() -> bool:
        nonlocal seen
        # Only what is new: the file has megabytes, and reading takes time from who writes it.
        seen += sum(line.startswith(b'{"kind": "block"') for line in file)
        return seen >= blocks

    with (folder.file or Path()).open("rb") as file:
        return wait_until(enough)
