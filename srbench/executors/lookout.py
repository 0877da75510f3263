"""While a data set is worked through: the user's wish to stop, actors that wait, machines lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from srbench.executors.cluster import live_nodes

GRACE_S = 30.0
"""Time for an actor of a lost machine to start on another, and for the first to start at all."""
_LOOK_S = 2.0
_PAUSE_S = 0.1


@contextmanager
def watched(
    ray: ModuleType, ledger: Any, note: Callable[[str], None], stop: Callable[[], bool]
) -> Iterator[None]:
    """Look out in a thread of its own.

    Args:
        ray: The module, connected.
        ledger: Told to stop.
        note: Told when no actor starts.
        stop: Whether the user wants to.
    """
    over = threading.Event()
    lookout = _Lookout(ray, ledger, note)
    thread = threading.Thread(target=lookout.watch, args=(stop, over), daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@dataclass(slots=True)
class _Lookout:
    ray: ModuleType
    ledger: Any
    note: Callable[[str], None]
    began: float = field(default_factory=time.monotonic)
    arrived: bool = False
    missed: dict[str, float] = field(default_factory=dict)
    """Actors without a machine, since when."""

    def watch(self, stop: Callable[[], bool], over: threading.Event) -> None:
        """Until it is over."""
        stopped = False
        looked = self.began
        try:
            while not over.wait(_PAUSE_S):
                if stop() and not stopped:
                    stopped = True
                    self.ray.get(self.ledger.stop.remote())
                if time.monotonic() - looked > _LOOK_S:
                    self.look()
                    looked = time.monotonic()
        except self.ray.exceptions.RayError:
            return  # who works with the actors meets the same

    def look(self) -> None:
        """See which actors are where."""
        alive = {node.id for node in live_nodes(self.ray)}
        present = self.ray.get(self.ledger.present.remote(alive))
        if present:
            self.arrived = True
            self._end_lost(self.ray.get(self.ledger.away_from.remote(alive)))
        elif not self.arrived and time.monotonic() - self.began > GRACE_S:
            self.arrived = True
            self.note("waiting for actors: what they need is in use, or they are slow to start")

    def _end_lost(self, away: dict[str, Any]) -> None:
        """End actors that wait for a place since their machine is gone, while others are at work.

        What they were given would else wait with them.
        """
        for actor in self.missed.keys() - away.keys():
            del self.missed[actor]
        for actor, handle in away.items():
            since = self.missed.setdefault(actor, time.monotonic())
            if time.monotonic() - since > GRACE_S:
                self.ray.kill(handle, no_restart=True)
                self.ray.get(self.ledger.dismiss.remote(actor))
                del self.missed[actor]
