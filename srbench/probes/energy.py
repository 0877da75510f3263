"""Energy of an image from the card's total-energy counter, cross-checked with polled power."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from srbench.nvml import Monitor

WINDOW_S = 10.0
"""The counter advances in steps of some 20 to 100 ms: over ten seconds those are below 1 %."""

IDLE_S = 3.0
MIN_IMAGES = 3
POLL_S = 0.02

AVERAGED_OVER_S = 1.0
"""On GA10x and newer `power_w` is the mean of the last second: the first one is not the image's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Energy:
    """Energy of an image, or the reason why it is not known.

    Attributes:
        gross_j: Joules an image by the counter, all that the card drew.
        net_j: The same less what the idle card draws in that time.
        polled_j: Joules an image by the integral of polled power; independent of the counter.
        idle_w: Mean power of the idle card with our context on it, by the counter.
        window_s: Time over which whole images were repeated.
        images: How many.
        reason: One line when it was not measured; the numbers are then None.
    """

    gross_j: float | None = None
    net_j: float | None = None
    polled_j: float | None = None
    idle_w: float | None = None
    window_s: float | None = None
    images: int | None = None
    reason: str | None = None

    def to_record(self) -> dict[str, float | None]:
        """The keys of `CellRecord.energy`; empty when nothing was measured."""
        if self.gross_j is None:
            return {}
        return {
            "gross_j": self.gross_j,
            "net_j": self.net_j,
            "polled_j": self.polled_j,
            "idle_w": self.idle_w,
            "window_s": self.window_s,
            "images": self.images,
        }


def measure_energy(
    call: Callable[[], object],
    monitor: Monitor | None,
    *,
    window_s: float = WINDOW_S,
    idle_s: float = IDLE_S,
) -> Energy:
    """Let the card rest, then repeat `call` for a window, and divide.

    Args:
        call: Makes one image and returns when it is in host memory.
        monitor: Of the card, which must be at rest and used by nobody else; None on CPU.
        window_s: Least time of the window; it ends with the image and has at least three.
        idle_s: Time at rest before it.
    """
    if monitor is None:
        return Energy(reason="no energy counter on this device")
    rest = _drawn(monitor, lambda: time.sleep(idle_s))
    if rest is None:
        return Energy(reason="the card has no total-energy counter")
    images = 0

    def repeat() -> None:
        nonlocal images
        start = time.perf_counter()
        while images < MIN_IMAGES or time.perf_counter() - start < window_s:
            call()
            images += 1

    with _PowerPoll(monitor) as poll:
        work = _drawn(monitor, repeat)
    if work is None or work.joules <= 0 or rest.joules <= 0:
        return Energy(reason="the energy counter did not advance")
    idle_w, polled_w = rest.joules / rest.seconds, poll.mean_w()
    return Energy(
        gross_j=work.joules / images,
        net_j=(work.joules - idle_w * work.seconds) / images,
        polled_j=None if polled_w is None else polled_w * work.seconds / images,
        idle_w=idle_w,
        window_s=work.seconds,
        images=images,
    )


@dataclass(frozen=True, slots=True)
class _Drawn:
    joules: float
    seconds: float


def _drawn(monitor: Monitor, task: Callable[[], None]) -> _Drawn | None:
    """Energy by the counter and time of a task; None without a counter."""
    before, start = monitor.energy_mj(), time.perf_counter()
    if before is None:
        return None
    task()
    after, end = monitor.energy_mj(), time.perf_counter()
    return None if after is None else _Drawn((after - before) / 1000, end - start)


class _PowerPoll:
    """Reads the card's power in the background while its block runs."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._watts: list[tuple[float, float]] = []
        self._lag_s = AVERAGED_OVER_S
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._poll, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _poll(self) -> None:
        while True:
            reading = self._monitor.power()
            watts, instant = reading["power_w"], reading["power_instant_w"]
            if instant is not None:
                watts, self._lag_s = instant, 0.0
            if watts is not None:
                self._watts.append((time.perf_counter(), watts))
            if self._done.wait(POLL_S):
                return

    def mean_w(self) -> float | None:
        """Trapezoid over the time of which the sensor shows the block alone, or None."""
        start = self._watts[0][0] + self._lag_s if self._watts else 0.0
        points = [point for point in self._watts if point[0] >= start]
        if len(points) < 2:
            return None
        area = sum(
            (later - earlier) * (first + second) / 2
            for (earlier, first), (later, second) in pairwise(points)
        )
        return area / (points[-1][0] - points[0][0])
