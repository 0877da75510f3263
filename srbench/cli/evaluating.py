"""Pictures measured for `srbench evaluate`, here or by the actors of a cluster, with progress."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from srbench.cli.crews import hired, threads_here
from srbench.cli.devices import choose_device
from srbench.outcome import one_line

if TYPE_CHECKING:
    from srbench.fidelity.evaluate import Evaluation, Scores
    from srbench.fidelity.journal import Journal
    from srbench.fidelity.plan import Plan

_LINES = 20
"""Lines of progress where there is no terminal."""


def measure_here(
    plans: list[Plan], device: str, provider: str, out: Path | None
) -> list[Evaluation]:
    """Measure pictures in this process, with progress on stderr.

    Args:
        plans: One after another.
        device: `cpu` or `cuda`.
        provider: Name of the library.
        out: Where values are kept; None keeps none.
    """
    from srbench.fidelity.evaluate import evaluate, open_bench

    with _kept(out) as journal, _progress(sum(len(plan.jobs) for plan in plans)) as done:
        bench = open_bench(device, provider, journal)
        return [evaluate(plan, bench, done) for plan in plans]


def measure_on_ray(
    plans: list[Plan],
    address: str | None,
    device: str,
    actors: int | None,
    provider: str,
    out: Path | None,
) -> list[Evaluation]:
    """The same, single pictures by actors; metrics of whole folders are measured here.

    Args:
        plans: One after another.
        address: Of the cluster.
        device: As the user typed it.
        actors: That the user wants.
        provider: Name of the library.
        out: Where values are kept; None keeps none.

    Raises:
        UsageError: No cluster, or none with what is asked for.
        InfrastructureError: The cluster is gone, or the actors die whatever they measure.
        NotComparableError: Another machine has other sources or another library.
    """
    from srbench.executors.data_set import DataSet
    from srbench.executors.evaluation import Measuring, by_actors, versions
    from srbench.fidelity.evaluate import Bench, evaluate
    from srbench.fidelity.providers import open_provider

    library = open_provider(provider, choose_device("cpu" if device == "cpu" else "auto"))
    with _kept(out) as journal, hired(address, device, actors, note) as there:
        bench = Bench(library, there.device, journal)
        single = versions(plans[0].metrics, library)
        craft = Measuring(provider, there.device, threads_here(), single)
        data_set = DataSet(there.ray, there.choose, craft, note, lambda: False)
        with _progress(sum(len(plan.jobs) for plan in plans), there.crew.actors) as done:
            work = partial(by_actors, data_set, library)
            return [evaluate(plan, bench, done, work) for plan in plans]


@contextmanager
def _kept(out: Path | None) -> Iterator[Journal | None]:
    """The journal of a folder, where there is one."""
    from srbench.fidelity.journal import Journal

    with nullcontext() if out is None else Journal.open(out) as journal:
        yield journal


@contextmanager
def _progress(pictures: int, actors: int | None = None) -> Iterator[Callable[[Scores], None]]:
    """A bar when stderr is a terminal, else a line every so many pictures."""
    if not sys.stderr.isatty():
        yield _lines(pictures, actors)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        what = "measuring" if actors is None else f"measuring ({actors} actors)"
        task = bar.add_task(what, total=pictures)
        yield lambda _: bar.advance(task)


def _lines(pictures: int, actors: int | None) -> Callable[[Scores], None]:
    every = -(-pictures // _LINES)
    count = 0
    start = time.monotonic()

    def done(scores: Scores) -> None:
        nonlocal count
        count += 1
        if count % every == 0 or count == pictures:
            note(f"[{count}/{pictures}] {one_line(scores.file)}{rate()}")

    def rate() -> str:
        if actors is None:
            return ""
        return f", {count / (time.monotonic() - start):.2f} pictures/s with {actors} actors"

    return done


def note(text: str) -> None:
    """A line for the user."""
    typer.echo(text, err=True)
