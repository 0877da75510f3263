"""A user's folder in which simulated runs are started, killed and looked at from outside."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from srbench.records import Run
from srbench.store import list_runs, read_run

MARK = "SIMULATED_TEST_MARK"
Cell = tuple[int, str, str]


class Folder:
    """A working folder; whatever is started from it can be told from all other processes."""

    def __init__(self, folder: Path, project: Path) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        self.mark = secrets.token_hex(8)
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(project),
            "TMPDIR": str(self.temporary),
            "OMP_NUM_THREADS": "1",
            MARK: self.mark,
        }

    @contextmanager
    def started(self, *arguments: object) -> Iterator[subprocess.Popen[str]]:
        """A command line in a process of its own, gone with all of its children afterwards."""
        process = subprocess.Popen(
            [sys.executable, "-m", "srbench", *map(str, arguments)],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    @property
    def file(self) -> Path | None:
        """The results file, the newest of several."""
        runs = list_runs(self.folder / "results")
        return runs[-1] if runs else None

    @property
    def run(self) -> Run:
        assert self.file is not None
        return read_run(self.file)

    def processes(self) -> set[int]:
        """Ids of living processes that were started from this folder, by their environment."""
        return marked(self.mark)

    def workers(self) -> set[int]:
        """Those of them that are workers, and not, say, git asked for a commit."""
        return {pid for pid in self.processes() if _is_worker(pid)}

    def temporary_owners(self) -> set[int]:
        """Process ids in the names of temporary folders of runs."""
        return {int(path.name.split("-")[1]) for path in self.temporary.glob("srbench-*")}


def _is_worker(pid: int) -> bool:
    """Workers lead sessions; a child that one of them is about to start only looks like it."""
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return b".worker\0" in command and os.getsid(pid) == pid
    except OSError:
        return False


def marked(mark: str) -> set[int]:
    """Ids of living processes that inherited a mark; zombies are gone already."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.add(int(folder.name))
        except OSError:
            continue
    return found - {os.getpid()}


def wait_until(true: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether something becomes true in time."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def latencies(run: Run) -> dict[Cell, list[float]]:
    """(block, case, arm) -> timed latencies of the cells that came to a result."""
    return {
        (cell.block, cell.case, cell.pipeline): [s["latency_ms"] for s in cell.samples]
        for cell in run.cells
        if cell.outcome == "ok"
    }


def cells(run: Run) -> set[Cell]:
    return {(cell.block, cell.case, cell.pipeline) for cell in run.cells}
