"""Energy of an image from the card's total-energy counter."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from srbench.probes.clock import synchronise

if TYPE_CHECKING:
    from srbench.nvml import Monitor

WINDOW_S = 10.0
"""The counter advances in steps of some 20 to 100 ms: over ten seconds those are below 1 %."""


def joules_per_image(
    call: Callable[[], object], monitor: Monitor | None, *, window_s: float = WINDOW_S
) -> tuple[float | None, str | None]:
    """Repeat `call` for a window and divide, gross of what the idle card draws.

    Returns:
        Joules an image, or None and the reason.
    """
    if monitor is None:
        return None, "no energy counter on this device"
    before = monitor.energy_mj()
    if before is None:
        return None, "the card has no total-energy counter"
    images, start = 0, time.perf_counter()
    while time.perf_counter() - start < window_s:
        call()
        images += 1
    synchronise("cuda")
    after = monitor.energy_mj()
    if after is None or after <= before:
        return None, "the energy counter did not advance"
    return (after - before) / 1000 / images, None
