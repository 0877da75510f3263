"""What disturbed a measurement: throttling and foreign processes, from readings of the card.

A reading is what `srbench.nvml.Monitor.state` returns; everything here is a pure function of them.
Power capping is normal on cards of that class and only tagged; heat, the board's own brakes and
foreign compute void a block.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

Reading = Mapping[str, Any]

VOIDING_REASONS = {
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "hardware power brake",
    0x08: "hardware slowdown",
}
"""NVML's clock event reasons after which a time is not the card's. `hardware slowdown` is set
together with the two hardware reasons above it, or alone on drivers that do not tell them apart."""

HARMLESS_REASONS = {
    0x04: "power capped",
    0x02: "clocks set by a user",
    0x10: "clocks synchronised with other cards",
    0x100: "clocks held by the display",
}
"""Reasons that slow a card down in the way it is run every day; `idle` (0x1) is none."""

_HARDWARE_SLOWDOWN = 0x08
_HARDWARE_DETAIL = 0x40 | 0x80

STEADY_READINGS = 5
STEADY_SPREAD = 0.02

BUSY_PCT = 10
"""Utilisation from which a card without our workers is at somebody's work. NVML tells the share of
the last 1/6 to 1 s in which a kernel ran; a desktop's compositor stays below."""


def throttle_names(mask: int) -> list[str]:
    """Names of the known clock event reasons in NVML's bit mask, the harmful ones first."""
    known = {**VOIDING_REASONS, **HARMLESS_REASONS, 0x01: "idle"}
    return [name for bit, name in known.items() if mask & bit]


def disturbances(states: Iterable[Reading], own_pids: Collection[int], together: int) -> list[str]:
    """Why a block does not count.

    Args:
        states: Readings before and after each of its images.
        own_pids: Workers that had the card in this block, ended ones included.
        together: Most of them that are alive at a time: the arms where they take turns, 1 where
            one leaves before the next starts.

    Returns:
        One line a finding; none when nothing disturbed it or nothing could be read.
    """
    readings = list(states)
    foreign = _foreign(readings, own_pids, together)
    return [*_throttled(readings), *([foreign] if foreign else [])]


def tags(states: Iterable[Reading]) -> list[str]:
    """What is worth telling of a block that counts: `power capped in 40 % of readings`."""
    masks = _masks(states)
    shares = {name: _share(masks, bit) for bit, name in HARMLESS_REASONS.items()}
    return [f"{name} in {100 * share:.0f} % of readings" for name, share in shares.items() if share]


def exclusive(states: Iterable[Reading]) -> str | None:
    """Why the card is not ours alone, or None.

    For the start of a run, before its first worker: every listed process is foreign. A card may
    also be busy with processes that the driver does not list to a container, so it must not be at
    work in *every* reading: give several over more than a second, or one that an earlier process
    left busy looks foreign.

    Args:
        states: Readings while none of our workers lives.
    """
    readings = list(states)
    if foreign := _foreign(readings, own_pids=(), together=0):
        return foreign
    busy = [reading.get("utilization_pct") for reading in readings]
    known = [int(percent) for percent in busy if percent is not None]
    if known and len(known) == len(busy) and min(known) >= BUSY_PCT:
        return f"the card is {min(known)} % busy though no foreign process is listed"
    return None


def clocks_steady(states: Sequence[Reading]) -> bool:
    """Whether the SM clock of the last five readings stays within 2 %.

    Give the readings taken after the images: those before one may show a card that just woke up.
    Always true where the clock cannot be read, so that it does not hold up the warm-up.
    """
    clocks = [reading.get("sm_clock_mhz") for reading in states[-STEADY_READINGS:]]
    known = [float(clock) for clock in clocks if clock is not None]
    if not known:
        return bool(states)
    return len(clocks) == STEADY_READINGS and max(known) - min(known) <= STEADY_SPREAD * max(known)


def _masks(states: Iterable[Reading]) -> list[int]:
    masks = (reading.get("throttle_reasons") for reading in states)
    return [int(mask) for mask in masks if mask is not None]


def _share(masks: Sequence[int], bit: int) -> float:
    return sum(bool(mask & bit) for mask in masks) / len(masks) if masks else 0.0


def _throttled(readings: Sequence[Reading]) -> list[str]:
    masks = _masks(readings)
    heat = [float(r["temperature_c"]) for r in readings if r.get("temperature_c") is not None]
    hottest = f", up to {max(heat):.0f} °C" if heat else ""
    found = []
    for bit, name in VOIDING_REASONS.items():
        hit = [mask for mask in masks if mask & bit]
        if bit == _HARDWARE_SLOWDOWN:
            hit = [mask for mask in hit if not mask & _HARDWARE_DETAIL]
        if hit:
            found.append(f"{name} in {len(hit)} of {len(masks)} readings{hottest}")
    return found


def _foreign(readings: Sequence[Reading], own_pids: Collection[int], together: int) -> str | None:
    """Foreign compute processes in any reading.

    Where one of our own ids is listed the driver counts processes as we do, and every other id is
    foreign. Where none ever is, we are in a container and the driver lists the host's ids: then
    more processes at a time than we have together is all that can be told. An id of 0 is a process
    the driver hides.
    """
    listings = [pids for r in readings if (pids := r.get("compute_pids")) is not None]
    own = set(own_pids)
    if not own or any(own & set(pids) for pids in listings):
        foreign = {pid for pids in listings for pid in pids} - own
        if not foreign:
            return None
        named = ", ".join(str(pid) for pid in sorted(foreign) if pid)
        return f"foreign compute process on the card: {f'pid {named}' if named else 'id hidden'}"
    most = max((_processes(pids) for pids in listings), default=0)
    if most > together:
        return f"{most} compute processes on the card, {together} of them ours"
    return None


def _processes(pids: Sequence[int]) -> int:
    """Processes in a listing: one may have several contexts, hidden ones all have the id 0."""
    return len({pid for pid in pids if pid}) + sum(not pid for pid in pids)
