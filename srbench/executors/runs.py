"""Several runs at once on a cluster, one a kind of card: none ends or waits for another."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from types import ModuleType

from srbench.executors.cluster import LostClusterError, Pulse
from srbench.executors.leader import Errand, Leader, Led
from srbench.running import Conduct

_PAUSE_S = 0.2


class _Thread(threading.Thread):
    """One run. A daemon: whoever interrupts the command twice does not wait for it."""

    def __init__(self, leader: Leader) -> None:
        super().__init__(daemon=True)
        self.leader = leader
        self.led: Led | None = None
        self.bug: BaseException | None = None

    def run(self) -> None:
        try:
            self.led = self.leader.led()
        except BaseException as error:  # noqa: BLE001  raised again in the thread that waits
            self.bug = error


def lead_all(ray: ModuleType, errands: Sequence[Errand], conducts: Sequence[Conduct]) -> list[Led]:
    """Lead runs side by side and wait for all of them.

    Args:
        ray: Of a connected cluster.
        errands: The runs, each of another kind of card.
        conducts: How each is led.

    Returns:
        How each ended, in their order.

    Raises:
        KeyboardInterrupt: From outside; then nothing of them runs any more.
        LostClusterError: The head of the cluster is gone.
    """
    threads = [
        _Thread(Leader(ray, errand, conduct))
        for errand, conduct in zip(errands, conducts, strict=True)
    ]
    pulse = Pulse(ray)
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(_PAUSE_S)
                pulse.feel()
    except LostClusterError:
        raise
    except BaseException:
        for thread in threads:
            thread.leader.cancel()
        raise
    for thread in threads:
        if thread.bug is not None:
            raise thread.bug
    return [thread.led for thread in threads if thread.led is not None]
