"""The options of commands that work through data sets, here or by the actors of a cluster."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from srbench.cli.executor import leave_lost

if TYPE_CHECKING:
    from types import ModuleType

    from srbench.executors.crew import Crew

Actors = Annotated[
    int | None,
    typer.Option(
        help="With --executor ray: how many work at once [default: one a card, or one a machine]",
        min=1,
    ),
]


@dataclass(frozen=True, slots=True)
class Hired:
    """Actors that a cluster has room for.

    Attributes:
        ray: The module, connected.
        device: `cpu` or `cuda`, the same for all of them.
        crew: How many there are when work begins.
        choose: Chooses again, when machines were lost.
    """

    ray: ModuleType
    device: str
    crew: Crew
    choose: Callable[[], Crew]


@contextmanager
def hired(
    address: str | None, device: str, actors: int | None, note: Callable[[str], None]
) -> Iterator[Hired]:
    """Connect to a cluster and see how many actors fit.

    Args:
        address: As of `srbench.executors.cluster.connected`.
        device: As the user typed it.
        actors: That the user wants.
        note: Told when fewer fit.

    Raises:
        UsageError: No cluster, or none with what is asked for.
    """
    from srbench.executors.cluster import connected, live_nodes
    from srbench.executors.crew import choose_crew, choose_device

    with connected(address) as ray, _guarded(ray):
        place = choose_device(device, live_nodes(ray))

        def choose(tell: Callable[[str], None] = lambda _: None) -> Crew:
            return choose_crew(live_nodes(ray), place, actors, tell)

        yield Hired(ray, place, choose(note), choose)


@contextmanager
def _guarded(ray: ModuleType) -> Iterator[None]:
    """End the process when the head of the cluster is gone: calls of Ray would wait in vain."""
    from srbench.executors.cluster import LostClusterError, Pulse

    pulse = Pulse(ray, "the same command goes on")
    over = threading.Event()

    def watch() -> None:
        try:
            while not over.wait(1):
                pulse.feel()
        except LostClusterError as error:
            leave_lost(error)

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def threads_here() -> int:
    """Threads with which the command computes on this machine's CPU: actors take as many.

    Sums, and with them the last bits of a picture, depend on their number.
    """
    import torch

    return torch.get_num_threads()
