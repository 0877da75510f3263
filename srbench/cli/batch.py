"""`srbench upscale` of a folder before a user: progress, Ctrl-C, and the lines it ends with."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from srbench.batch_results import Fate, Result, Summary
from srbench.cli.interrupts import interruptible
from srbench.errors import ExitCode
from srbench.outcome import one_line

if TYPE_CHECKING:
    from rich.progress import Progress

    from srbench.batch import Conduct
    from srbench.upscaling import Request


class Lines:
    """A line an input on stderr."""

    def __init__(self, inputs: int, scale: int, actors: int = 1) -> None:
        """Expect that many inputs, so many at a time."""
        self._inputs = inputs
        self._scale = scale
        self._actors = actors
        self._seen = 0
        self._worked = 0
        self._worked_s = 0.0

    def done(self, result: Result) -> None:
        """Tell what became of one, and how long the rest will take if it is like those before."""
        self._seen += 1
        if result.width is not None:  # what cannot be read takes no time
            self._worked += 1
            self._worked_s += result.seconds
        self.note(f"[{self._seen}/{self._inputs}] {self.describe(result)}{self._remaining()}")

    def describe(self, result: Result) -> str:
        """A result in a line."""
        name = one_line(str(result.source))
        match result.fate:
            case Fate.SKIPPED:
                return f"{name}: there already"
            case Fate.FAILED:
                return f"{name}: failed: {result.reason}"
            case Fate.INTERRUPTED:
                return f"{name}: interrupted between its samples"
            case Fate.WRITTEN:
                samples = f", {len(result.outputs)} samples" if len(result.outputs) > 1 else ""
                size = f"{result.width}x{result.height}, x{self._scale}"
                return f"{name}: {size}{samples}, {result.seconds:.1f} s"

    def note(self, text: str) -> None:
        """Print a line of its own."""
        typer.echo(text, err=True)

    def _remaining(self) -> str:
        left = self._inputs - self._seen
        if not left or not self._worked:
            return ""
        return f", about {self._worked_s / self._worked / self._actors * left:.0f} s left"


class Bar(Lines):
    """The same as a bar that stays in its place; failures stand above it."""

    def __init__(self, inputs: int, scale: int, progress: Progress, actors: int = 1) -> None:
        """Draw on `progress`."""
        super().__init__(inputs, scale, actors)
        self._progress = progress
        self._task = progress.add_task("", total=inputs)

    def done(self, result: Result) -> None:
        """Advance."""
        if result.fate is Fate.FAILED:
            self.note(self.describe(result))
        self._progress.update(self._task, advance=1, description=one_line(result.source.name, 40))

    def note(self, text: str) -> None:
        """Print above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)


@contextmanager
def _progress(inputs: int, scale: int, actors: int) -> Iterator[Lines]:
    """A bar when stderr is a terminal, else lines."""
    if not sys.stderr.isatty():
        yield Lines(inputs, scale, actors)
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
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}", markup=False),
        console=Console(stderr=True),
        # Its list of files is stdout's own, unless the bar would be written over.
        redirect_stdout=sys.stdout.isatty(),
    ) as progress:
        yield Bar(inputs, scale, progress, actors)


Batch = Callable[["Conduct"], Generator[Result]]
"""Upscales the inputs of a request, told how."""


def upscale_folder(
    request: Request,
    batch: Batch,
    others: int,
    *,
    overwrite: bool,
    as_json: bool,
    actors: int | None = None,
) -> None:
    """Have a batch upscaled, tell how it goes, and leave with its exit code.

    Args:
        request: Its inputs and outputs.
        batch: Upscales them.
        others: Files in the input folder that are no images.
        overwrite: Make again what is there.
        as_json: One document on stdout instead of the names of written files.
        actors: That do it on a Ray cluster; None where this process does.
    """
    from srbench.batch import Conduct

    start = time.monotonic()
    results: list[Result] = []

    def written(path: Path) -> None:
        if not as_json:
            typer.echo(str(path))

    interrupted = False
    try:
        with (
            _progress(len(request.files), request.scale, actors or 1) as progress,
            interruptible(progress.note, "picture") as stop,
            closing(batch(Conduct(progress.note, written, stop, overwrite))) as done,
        ):
            for result in done:
                results.append(result)
                progress.done(result)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        interrupted = True
    left = len(request.files) - len(results)
    seconds = time.monotonic() - start
    summary = Summary(_in_order(request, results), left, others, seconds, actors)
    if as_json:
        print_json(summary)
    for line in _account(summary):
        typer.echo(line, err=True)
    if interrupted or left or summary.count(Fate.INTERRUPTED):
        _leave_interrupted(summary, "without --overwrite " if overwrite else "")
    if (error := summary.error()) is not None:
        raise error


def _in_order(request: Request, results: list[Result]) -> tuple[Result, ...]:
    """What a lost machine had is done last."""
    places = {source: place for place, (source, _) in enumerate(request.files)}
    return tuple(sorted(results, key=lambda result: places[result.source]))


def print_json(summary: Summary) -> None:
    """The whole result as one document on stdout."""
    typer.echo(json.dumps(summary.to_json(), indent=1))


def _account(summary: Summary) -> Iterator[str]:
    words = {Fate.WRITTEN: "written", Fate.SKIPPED: "there already", Fate.FAILED: "failed"}
    counts = {word: summary.count(fate) for fate, word in words.items()}
    told = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    files = "file" if summary.others == 1 else "files"
    others = f"; {summary.others} other {files} left alone" if summary.others else ""
    if len(summary.results) > 1:
        time_taken = f"{summary.seconds:.1f} s{_rate(summary)}"
        yield f"{len(summary.results)} inputs: {told}{others}; {time_taken}"
        for result in summary.failures:
            yield f"failed: {one_line(str(result.source))}: {result.reason}"


def _rate(summary: Summary) -> str:
    if not summary.count(Fate.WRITTEN):
        return ""
    actors = {None: "", 1: " with 1 actor"}.get(summary.actors, f" with {summary.actors} actors")
    return (
        f", {summary.pictures_per_s:.2f} inputs/s, {summary.megapixels_per_s:.2f} megapixels/s"
        f"{actors}"
    )


def _leave_interrupted(summary: Summary, how: str) -> NoReturn:
    finished = len(summary.results) - summary.count(Fate.INTERRUPTED)
    typer.echo(
        f"srbench: interrupted after {finished} of {len(summary.results) + summary.left} inputs; "
        f"the same command {how}goes on",
        err=True,
    )
    sys.exit(ExitCode.INTERRUPTED)
