"""Which machine of a cluster measures a run: one of its kind, the same as long as it lives."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import ModuleType

from srbench.errors import InfrastructureError, NotComparableError, UsageError
from srbench.executors.cluster import Node, live_nodes
from srbench.profiles import Profile, load_profile, profile_names

PATIENCE_S = 300.0
"""Longest that a run waits for a machine in place of a lost one; to restart takes minutes."""

_PAUSE_S = 1.0
_SIMULATED = "simulated-"


def card_kind(profile: str) -> str | None:
    """What Ray calls the card of a profile: `A10`; None where any machine will do.

    Args:
        profile: Its name; a simulated card's has a prefix.
    """
    name = profile.removeprefix(_SIMULATED)
    return None if load_profile(name).device != "cuda" else name.upper()


def simulated_card(name: str) -> Profile:
    """A profile under which a simulation is led on machines that have a card of that name."""
    return Profile(name=f"{_SIMULATED}{name}", title=f"Simulated {load_profile(name).title}")


def profiles_of(text: str, nodes: Sequence[Node]) -> list[str]:
    """The profiles that `--gpu` means on a cluster, each of a kind of card that is there.

    Args:
        text: `auto` for every kind that has a profile, or names with commas between them.
        nodes: Of the cluster.

    Raises:
        UsageError: No such profile, or none at all.
        NotComparableError: No machine has such a card.
    """
    if text == "auto":
        kinds = {kind for node in nodes for kind in node.accelerators if node.gpus}
        return [name for name in profile_names() if card_kind(name) in kinds] or ["cpu"]
    names = list(dict.fromkeys(filter(None, (part.strip() for part in text.split(",")))))
    if not names:
        raise UsageError(f"--gpu '{text}': names no card; give a10, l20, … or auto")
    for name in names:
        if not any(fits(node, name) for node in nodes):
            raise NotComparableError(f"--gpu {name}: {missing(name, nodes)}")
    return names


def fits(node: Node, profile: str) -> bool:
    """Whether a machine has the card of a profile and cores to measure with."""
    kind = card_kind(profile)
    return node.cpus >= 1 and (kind is None or (node.gpus >= 1 and kind in node.accelerators))


def missing(profile: str, nodes: Sequence[Node]) -> str:
    """That a cluster has no machine for a profile, and what it has."""
    kind = card_kind(profile)
    wanted = "no machine with cores of its own" if kind is None else f"no machine with {kind}"
    found = ", ".join(f"{node.address} ({_cards(node)})" for node in nodes) or "none at all"
    return f"the cluster has {wanted}; it has {found}"


def _cards(node: Node) -> str:
    cards = ", ".join(node.accelerators) or ("cards of no kind" if node.gpus else "no card")
    return f"{node.cpus:g} cores, {cards}"


class Nodes:
    """The machines on which one run may go on."""

    def __init__(self, ray: ModuleType, profile: str) -> None:
        """Of a connected cluster, none preferred yet."""
        self._ray = ray
        self._profile = profile
        self._home: str | None = None
        self._lost: set[str] = set()
        self._refused: dict[str, str] = {}

    def choose(self, note: Callable[[str], None], stop: Callable[[], bool]) -> Node | None:
        """The machine for the next block: where the last one was, else another of the kind.

        Args:
            note: Told when there is none and one is waited for.
            stop: Asked while waiting.

        Returns:
            None where the wait was stopped.

        Raises:
            NotComparableError: None is left that may go on with the run.
            InfrastructureError: A machine was lost, and none came in its place.
        """
        deadline = time.monotonic() + PATIENCE_S
        waiting = False
        while True:
            nodes = live_nodes(self._ray)
            fit = [node for node in nodes if fits(node, self._profile)]
            able = [n for n in fit if n.id not in self._lost and n.id not in self._refused]
            if able:
                chosen = next((node for node in able if node.id == self._home), able[0])
                self._home = chosen.id
                return chosen
            if not self._lost:
                why = "; ".join(self._refused.values()) or missing(self._profile, nodes)
                raise NotComparableError(why)
            if stop():
                return None
            if time.monotonic() > deadline:
                raise InfrastructureError(
                    f"no machine came in {PATIENCE_S:g} s in place of the lost one; "
                    "--resume goes on"
                )
            if not waiting:
                note(f"waiting up to {PATIENCE_S:g} s for a machine in place of the lost one")
            waiting = True
            time.sleep(_PAUSE_S)

    def lost(self, node: Node) -> None:
        """A machine is gone; should it start again, it is another one to Ray."""
        self._lost.add(node.id)

    def refused(self, node: Node, why: str) -> None:
        """A machine may not go on with the run."""
        self._refused[node.id] = f"{node.address}: {why}"
