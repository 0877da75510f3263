"""Where a command works: the options, and runs led on the machines of a cluster."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from srbench.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType

    from srbench.config import Settings
    from srbench.executors.cluster import LostClusterError
    from srbench.executors.leader import Errand, Led
    from srbench.executors.messages import Prepare
    from srbench.plan import Plan
    from srbench.profiles import Profile
    from srbench.records import Run, RunRecord
    from srbench.running import Looking

Executor = Annotated[
    str | None,
    typer.Option(help="local, or ray: on the machines of a cluster [default: local]"),
]
Address = Annotated[
    str | None,
    typer.Option(
        help="With --executor ray: HOST:PORT of the cluster's head, auto, or local "
        "[default: RAY_ADDRESS, else local]"
    ),
]


def on_ray(settings: Settings, address: str | None = None) -> bool:
    """Whether a command works on a cluster.

    Args:
        settings: Of the command.
        address: As given on the command line.

    Raises:
        UsageError: Options of a cluster without one.
    """
    if asks_for_ray(settings.executor, {"--address": address}):
        return True
    if "," in settings.gpu:
        raise UsageError(
            f"--gpu {settings.gpu}: several cards are those of a cluster; add --executor ray"
        )
    return False


def asks_for_ray(executor: str | None, given: Mapping[str, object]) -> bool:
    """Whether a command works on a cluster.

    Args:
        executor: As chosen; None is local.
        given: Options of a cluster by name; None where they are not on the command line.

    Raises:
        UsageError: Unknown executor, or options of a cluster without one.
    """
    if executor == "ray":
        return True
    if executor not in (None, "local"):
        raise UsageError(f"--executor {executor}: expected local or ray")
    for name, value in given.items():
        if value is not None:
            raise UsageError(f"{name}: goes with --executor ray")
    return False


def measure_on_ray(
    settings: Settings,
    gpu: str,
    plan: Callable[[str], tuple[Profile, Plan, Prepare]],
    looking: Callable[[str], Looking] | None = None,
) -> list[Led]:
    """Begin a run for each kind of card that is asked for, all at once.

    Args:
        settings: Of the command.
        gpu: As of `--gpu`.
        plan: From the name of a profile, what is measured there and how it is made ready.
        looking: From the name of a profile of a run, how that is looked at.

    Returns:
        How the runs ended, in the order of the profiles.
    """
    from srbench.executors.cluster import live_nodes
    from srbench.executors.leader import Errand
    from srbench.executors.nodes import profiles_of

    with cluster(settings.address) as ray:
        names = profiles_of(gpu, live_nodes(ray))
        group = _new_group() if len(names) > 1 else None
        errands = []
        for name in names:
            profile, planned, prepare = plan(name)
            errands.append(
                Errand(
                    profile=profile,
                    plan=planned,
                    prepare=prepare,
                    out=settings.out,
                    argv=sys.argv[1:],
                    group=group,
                )
            )
        return _led(ray, errands, [looking(e.profile.name) if looking else None for e in errands])


def go_on_on_ray(
    name: str,
    settings: Settings,
    purpose: str,
    plan: Callable[[RunRecord], tuple[Profile, Plan, Prepare]],
    looking: Callable[[RunRecord], Looking] | None = None,
) -> list[Led]:
    """Go on with a run, and with those of its group that are unfinished too.

    Args:
        name: Of one of them, or `newest`.
        settings: Of the command.
        purpose: What the run must be for.
        plan: From the head of a run, what is measured and how it is made ready.
        looking: From the head of a run, how that is looked at.

    Raises:
        NotComparableError: The cluster has no machine for one of them.
    """
    from srbench.executors.cluster import live_nodes
    from srbench.executors.leader import Errand
    from srbench.executors.nodes import profiles_of

    begun = _unfinished_group(name, settings.out, purpose)
    with cluster(settings.address) as ray:
        errands, lookings = [], []
        for run, path in begun:
            profile, planned, prepare = plan(run.head)
            profiles_of(profile.name, live_nodes(ray))
            errands.append(
                Errand(
                    profile=profile,
                    plan=planned,
                    prepare=prepare,
                    out=path.parents[1],
                    argv=run.head.argv,
                    group=run.head.group,
                    begun=path,
                )
            )
            lookings.append(looking(run.head) if looking else None)
        return _led(ray, errands, lookings)


@contextmanager
def cluster(address: str | None) -> Iterator[ModuleType]:
    """Ray, connected, as long as there is a cluster; without one the process ends.

    Nothing that Ray has started in it can be ended in order then.
    """
    from srbench.executors.cluster import LostClusterError, connected

    try:
        with connected(address) as ray:
            yield ray
    except LostClusterError as error:
        leave_lost(error)


def leave_lost(error: LostClusterError) -> NoReturn:
    """End the process at once, from any thread, with a line about the cluster."""
    show_cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # which progress bars hide
    typer.echo(f"{show_cursor}srbench: {error}", err=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(int(error.exit_code))


def shipped(settings: Settings) -> Settings:
    """Settings for other machines: a folder of weights is named from the root."""
    given = settings.weights
    if given is None or given in ("mini", "synthetic"):
        return settings
    return replace(settings, weights=str(Path(given).expanduser().absolute()))


def _unfinished_group(name: str, out: Path, purpose: str) -> list[tuple[Run, Path]]:
    from srbench.cli.conduct import NEWEST, unfinished
    from srbench.store import find_run, list_runs, newest_run, read_run

    path = newest_run(out) if name == NEWEST else find_run(name, out)
    group = read_run(path).head.group
    files = [path]
    if group is not None:
        files = [each for each in list_runs(path.parents[1]) if _of_group(each, group)]
    runs = [(read_run(each), each) for each in files]
    others = [pair for pair in runs if not pair[0].ended and pair[0].head.purpose == purpose]
    # Where there is nothing to go on with, the one that was named tells why.
    return others or [unfinished(name, out, purpose)]


def _of_group(path: Path, group: str) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        return f'"{group}"' in file.readline()


def _new_group() -> str:
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{secrets.token_hex(2)}"


def _led(
    ray: ModuleType, errands: Sequence[Errand], lookings: Sequence[Looking | None]
) -> list[Led]:
    """Lead runs with a terminal before them."""
    from srbench.executors.runs import lead_all
    from srbench.running import Conduct, Looking
    from srbench.store import read_run

    cells = 0
    for errand in errands:
        finished = len(read_run(errand.begun).finished_blocks) if errand.begun else 0
        plan = errand.plan
        cells += (plan.blocks - finished) * len(plan.cases) * len(plan.arms)
    with _interruptible(cells) as (progress, stop):
        observers: list[Any] = [progress]
        if len(errands) > 1:
            observers = [progress.of_run(errand.profile.name) for errand in errands]
        conducts = [
            Conduct(observer, stop, looking or Looking())
            for observer, looking in zip(observers, lookings, strict=True)
        ]
        return lead_all(ray, errands, conducts)


@contextmanager
def _interruptible(cells: int) -> Iterator[tuple[Any, Callable[[], bool]]]:
    from srbench.cli.conduct import leave_at_once
    from srbench.cli.interrupts import interruptible
    from srbench.cli.progress import progress_on_stderr

    try:
        with (
            progress_on_stderr(cells) as progress,
            interruptible(progress.note, "block", leave_at_once) as stop,
        ):
            yield progress, stop
    except KeyboardInterrupt:
        leave_at_once()
