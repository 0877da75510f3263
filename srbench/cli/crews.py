"""The options of commands that work through data sets, here or by the actors of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from srbench.errors import UsageError

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


def on_ray(executor: str | None, address: str | None, actors: int | None) -> bool:
    """Whether a command works on a cluster.

    Raises:
        UsageError: Unknown executor, or options of a cluster without one.
    """
    if executor not in (None, "local", "ray"):
        raise UsageError(f"--executor {executor}: expected local or ray")
    if executor == "ray":
        return True
    for name, value in (("--address", address), ("--actors", actors)):
        if value is not None:
            raise UsageError(f"{name}: goes with --executor ray")
    return False


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

    with connected(address) as ray:
        place = choose_device(device, live_nodes(ray))

        def choose(tell: Callable[[str], None] = lambda _: None) -> Crew:
            return choose_crew(live_nodes(ray), place, actors, tell)

        yield Hired(ray, place, choose(note), choose)


def threads_here() -> int:
    """Threads with which the command computes on this machine's CPU: actors take as many.

    Sums, and with them the last bits of a picture, depend on their number.
    """
    import torch

    return torch.get_num_threads()
