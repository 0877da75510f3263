"""A run with a terminal before it: progress, Ctrl-C, and the line it ends with."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

from srbench.cli.interrupts import interruptible
from srbench.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from srbench.preparation import Preparation
    from srbench.records import Run
    from srbench.running import Conduct, Looking

NEWEST = "newest"


def note(text: str) -> None:
    """Say something on stderr."""
    typer.echo(text, err=True)


def measure(
    preparation: Preparation, out: Path, looking: Looking | None = None
) -> tuple[Run, Path]:
    """Measure a new run; returns it and its file."""
    from srbench.running import begin

    plan = preparation.job.plan
    with _conducted(plan.blocks * len(plan.cases) * len(plan.arms), looking) as conduct:
        done = begin(preparation, out, sys.argv[1:], conduct)
    return done, out / done.head.profile / f"{done.head.run_id}.jsonl"


def go_on(path: Path, begun: Run, preparation: Preparation, looking: Looking | None = None) -> Run:
    """Go on with a run that was interrupted or killed."""
    from srbench.running import resume

    plan = preparation.job.plan
    blocks = plan.blocks - len(begun.finished_blocks)
    with _conducted(blocks * len(plan.cases) * len(plan.arms), looking) as conduct:
        return resume(path, preparation, conduct)


def unfinished(name: str, out: Path, purpose: str) -> tuple[Run, Path]:
    """The run that `--resume` means.

    Raises:
        UsageError: There is none, it is finished, or it belongs to another command.
    """
    from srbench.store import find_run, newest_run, read_run

    path = newest_run(out) if name == NEWEST else find_run(name, out)
    begun = read_run(path)
    if begun.ended:
        raise UsageError(f"--resume: {begun.head.run_id} is finished; there is nothing to resume")
    if begun.head.purpose != purpose:
        commands = {"run": "run", "aa": "aa", "ladder": "ladder", "simulation": "simulate"}
        command = commands.get(begun.head.purpose, "run")
        raise UsageError(
            f"--resume: {begun.head.run_id} was begun by another command; "
            f"`srbench {command} --resume` goes on with it"
        )
    return begun, path


@contextmanager
def _conducted(cells: int, looking: Looking | None) -> Iterator[Conduct]:
    from srbench.cli.progress import progress_on_stderr
    from srbench.running import Conduct, Looking

    try:
        with (
            progress_on_stderr(cells) as progress,
            interruptible(progress.note, "block", leave_at_once) as stop,
        ):
            yield Conduct(progress, stop, looking or Looking())
    except KeyboardInterrupt:
        leave_at_once()


def leave_at_once(*_: object) -> NoReturn:
    """End an interrupted run; whoever presses Ctrl-C again changes nothing any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    note("srbench: interrupted; --resume goes on")
    sys.exit(ExitCode.INTERRUPTED)


def how_it_ended(done: Run, path: Path) -> tuple[ExitCode, str]:
    """Exit code of a measured run and the one line of a non-zero one; the gate has no say."""
    from srbench.running import broken_results

    broken = broken_results(done)
    if not done.ended:
        return ExitCode.INTERRUPTED, (
            f"interrupted after {len(done.finished_blocks)} of {done.head.blocks} blocks; "
            f"--resume {done.head.run_id} goes on"
        )
    if broken:
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        return (
            ExitCode.INFRASTRUCTURE,
            f"no result for {broken[0]}{more}; the rest is stored in {path}",
        )
    return ExitCode.OK, ""
