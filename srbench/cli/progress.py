"""How far a run is, on stderr: a bar on a terminal, a line a cell elsewhere."""

from __future__ import annotations

import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.progress import Progress

    from srbench.records import CellRecord


class Lines:
    """A line a cell; an `srbench.coordinator.Observer`."""

    def __init__(self, cells: int) -> None:
        """Expect that many cells in this process."""
        self._cells = cells
        self._done = 0
        self._start = time.monotonic()
        self._lock = threading.Lock()

    def cell_done(self, cell: CellRecord, run: str = "") -> None:
        """Print it, of one of several runs with that run's name."""
        with self._lock:
            self._done += 1
            done = self._done
        elapsed_s = time.monotonic() - self._start
        left_s = elapsed_s / done * max(0, self._cells - done)
        self.note(
            f"[{done}/{self._cells}] {run}block {cell.block} {cell.case} {cell.pipeline}: "
            f"{describe(cell)}, {elapsed_s:.0f} s elapsed, about {left_s:.0f} s left"
        )

    def of_run(self, name: str) -> OneRun:
        """The observer of one of several runs."""
        return OneRun(self, name)

    def note(self, text: str) -> None:
        """Print a line of its own."""
        typer.echo(text, err=True)


class Bar(Lines):
    """The same as a bar that stays in its place."""

    def __init__(self, cells: int, progress: Progress) -> None:
        """Draw on `progress`."""
        super().__init__(cells)
        self._progress = progress
        self._task = progress.add_task("starting workers", total=cells)

    def cell_done(self, cell: CellRecord, run: str = "") -> None:
        """Advance."""
        self._progress.update(
            self._task,
            advance=1,
            description=f"{run}block {cell.block} {cell.case} {cell.pipeline} {describe(cell)}",
        )

    def note(self, text: str) -> None:
        """Print above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)


class OneRun:
    """One of several runs that go on at once: every line begins with its name."""

    def __init__(self, lines: Lines, name: str) -> None:
        """On the display of all of them."""
        self._lines = lines
        self._name = name

    def cell_done(self, cell: CellRecord) -> None:
        """Print it, or advance."""
        self._lines.cell_done(cell, f"{self._name} ")

    def note(self, text: str) -> None:
        """Print a line of its own."""
        self._lines.note(f"{self._name}: {text}")


def describe(cell: CellRecord) -> str:
    """A cell's result in a word or two."""
    if cell.outcome != "ok":
        return f"{cell.outcome} ({cell.reason})"
    return f"{statistics.median(s['latency_ms'] for s in cell.samples):.1f} ms"


@contextmanager
def progress_on_stderr(cells: int) -> Iterator[Lines]:
    """A bar when stderr is a terminal, else lines."""
    if not sys.stderr.isatty():
        yield Lines(cells)
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    with Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as progress:
        yield Bar(cells, progress)
