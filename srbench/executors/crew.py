"""How many actors work on a data set, and what of the cluster each of them has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from srbench.errors import UsageError
from srbench.executors.cluster import Node


@dataclass(frozen=True, slots=True)
class Crew:
    """Equal actors.

    Attributes:
        actors: At least one.
        cpus: Cores of each, which Ray gives to nobody else.
        gpus: Cards of each.
    """

    actors: int
    cpus: int
    gpus: int


def choose_device(name: str, nodes: Sequence[Node]) -> str:
    """`cpu` or `cuda` for what the user typed; `auto` takes the cards where there are any.

    Raises:
        UsageError: Unknown name, or a cluster without cards.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {name}: expected cpu, cuda or auto")
    if name == "cpu":
        return name
    if any(node.gpus >= 1 for node in nodes):
        return "cuda"
    if name == "cuda":
        raise UsageError("--device cuda: no machine of the cluster has a card; use --device cpu")
    return "cpu"


def choose_crew(
    nodes: Sequence[Node], device: str, asked: int | None, note: Callable[[str], None]
) -> Crew:
    """Divide a cluster: a card an actor, or a fair share of the cores.

    Args:
        nodes: That are alive.
        device: `cpu` or `cuda`.
        asked: Actors that the user wants; None is one a card, or one a machine.
        note: Told when fewer fit.

    Raises:
        UsageError: The cluster has no room for one.
    """
    able = [node for node in nodes if node.cpus >= 1]
    if device == "cuda":
        room = sum(min(int(node.gpus), int(node.cpus)) for node in able)
        wanted = room if asked is None else asked
        unit = "cards with a core each"
    else:
        room = sum(int(node.cpus) for node in able)
        wanted = len(able) if asked is None else asked
        unit = "cores"
    if not room:
        raise UsageError(f"--executor ray: the cluster has no {unit} to give away")
    actors = min(wanted, room)
    if actors < wanted:
        note(f"--actors {wanted}: the cluster has {room} {unit}; {actors} actors are at work")
    if device == "cuda":
        return Crew(actors, cpus=1, gpus=1)
    return Crew(actors, cpus=_share([int(node.cpus) for node in able], actors), gpus=0)


def _share(cores: Sequence[int], actors: int) -> int:
    """Most cores that each of so many actors can have, none of them on two machines."""
    return max(
        share
        for share in range(1, max(cores) + 1)
        if sum(count // share for count in cores) >= actors
    )
