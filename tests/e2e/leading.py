"""Simulated runs led by this suite itself: `srbench simulate` less its start, tables and report."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path

from srbench.cases import parse_cases
from srbench.errors import SrbenchError
from srbench.records import CellRecord, Run
from srbench.store import newest_run, read_run
from tests.e2e.simulated import Folder

RESULTS = Path("results")


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """What is simulated; defaults are those of the command.

    Attributes:
        cases: Case names.
        blocks, pairs, seed: Of the plan.
        noise: Name of a noise profile.
        speedup: Of the candidate; None for another revision of the baseline's own pipeline.
        plants: What is wrong with the candidate.
        pace_ms: Real time that an image takes at least.
    """

    cases: tuple[str, ...]
    blocks: int
    pairs: int = 5
    seed: int = 0
    noise: str = "typical"
    speedup: float | None = 2.0
    plants: tuple[str, ...] = ()
    pace_ms: float = 0.0


class _Silent:
    def cell_done(self, cell: CellRecord) -> None:
        """Nobody listens."""

    def note(self, text: str) -> None:
        """Nobody listens."""


def begin_here(show: Show, out: Path = RESULTS) -> Run:
    """Measure a new run in this process."""
    from srbench.running import Conduct, begin
    from srbench.simulation.preparing import make_design, prepare_simulation

    design = make_design(
        parse_cases(show.cases),
        noise=show.noise,
        speedup=show.speedup,
        plants=show.plants,
        seed=show.seed,
        blocks=show.blocks,
        pairs=show.pairs,
    )
    preparation = prepare_simulation(design, out, timeout_s=60, pace_ms=show.pace_ms)
    return begin(preparation, out, [], Conduct(_Silent()))


def go_on(out: Path = RESULTS) -> Run:
    """Go on with the newest run in this process."""
    from srbench.running import Conduct, resume
    from srbench.simulation.preparing import design_of, prepare_simulation

    path = newest_run(out)
    preparation = prepare_simulation(design_of(read_run(path).head), out, timeout_s=60)
    return resume(path, preparation, Conduct(_Silent()))


@contextmanager
def led(folder: Folder, show: Show | None = None) -> Iterator[ForkServerProcess]:
    """A run in a process of its own, gone with its children.

    Args:
        folder: Where.
        show: To be begun; None goes on with the newest.
    """
    process = _server().Process(target=_lead, args=(folder.folder, folder.environment, show))
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


@cache
def _server() -> ForkServerContext:
    """It has imported everything and forks each coordinator in milliseconds."""
    context = get_context("forkserver")
    context.set_forkserver_preload(
        ["__main__", "srbench.running", "srbench.simulation.preparing", "numpy.random"]
    )
    return context


def _lead(folder: Path, environment: dict[str, str], show: Show | None) -> None:
    os.environ.update(environment)
    os.chdir(folder)
    try:
        if show is None:
            go_on()
        else:
            begin_here(show)
    except SrbenchError as error:
        sys.exit(int(error.exit_code))
