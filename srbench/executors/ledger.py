"""Which works have been begun, and by whom: a Ray actor that outlives those that do them."""

from __future__ import annotations

from collections import Counter
from enum import Enum, auto
from typing import Any

MAX_ATTEMPTS = 3
"""Deaths of an actor over one work, after which the work is given up."""


class Word(Enum):
    """What an actor is told that asks for permission."""

    GO = auto()
    STOP = auto()
    """Nothing is begun any more."""
    GIVE_UP = auto()
    """It has killed too many actors."""


class Ledger:
    """Asked before every work; knows nothing of what the works are."""

    def __init__(self) -> None:
        """Nothing begun."""
        self._begun: Counter[int] = Counter()
        self._stopped = False
        self._places: dict[str, tuple[str, Any]] = {}

    def arrive(self, actor: str, node: str, handle: Any) -> None:
        """An actor has started, or has been restarted, perhaps elsewhere.

        Args:
            actor: Its identifier.
            node: Of the machine.
            handle: To end it.
        """
        self._places[actor] = (node, handle)

    def begin(self, work: int) -> Word:
        """Ask whether to begin a work; one that was begun before has killed whoever did."""
        if self._stopped:
            return Word.STOP
        if self._begun[work] >= MAX_ATTEMPTS:
            return Word.GIVE_UP
        self._begun[work] += 1
        return Word.GO

    def stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped

    def stop(self) -> set[int]:
        """Let nothing be begun any more; returns what has been."""
        self._stopped = True
        return set(self._begun)

    def away_from(self, nodes: set[str]) -> dict[str, Any]:
        """Actors that were last seen on none of these machines, with their handles."""
        return {
            actor: handle for actor, (node, handle) in self._places.items() if node not in nodes
        }

    def present(self, nodes: set[str]) -> int:
        """How many actors were last seen on one of these machines."""
        return sum(node in nodes for node, _ in self._places.values())

    def dismiss(self, actor: str) -> None:
        """Forget an actor that was ended."""
        self._places.pop(actor, None)
