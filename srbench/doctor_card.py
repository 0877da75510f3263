"""What the doctor finds of a card: is it set up, and free, for a measurement."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from srbench.errors import InfrastructureError
from srbench.nvml import Gpu, Monitor, ask, driver_facts, library
from srbench.probes.card import CardSettings, card_settings
from srbench.probes.disturbance import exclusive, throttle_names
from srbench.profiles import profile_of

FREE_SHARE = 0.9
"""Of the card's memory: less free than this and somebody keeps something there."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination.

    Attributes:
        what: What was looked at.
        word: `ok`, `warn` (works, with less) or `bad` (does not work).
        detail: What was found and what to do.
    """

    what: str
    word: str
    detail: str


FULL_CAPABILITY = (8, 0)
"""The least that the fused kernels and flash attention need."""

WATCH_S = 1.5
"""Longer than the driver's sampling period of utilisation, so that a process that just ended is
not taken for one that computes."""


def examine_card(gpu: Gpu, watch_s: float = WATCH_S) -> Iterator[Finding]:
    """Look at one card, for a while at what it does."""
    facts = driver_facts(gpu.uuid)
    yield Finding(
        "gpu",
        "ok",
        f"{gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB, profile {profile_of(gpu).name}",
    )
    yield driver_finding(facts.get("driver"), facts.get("cuda_driver"), torch_cuda())
    yield capability_finding(compute_capability(gpu.uuid))
    yield from setting_findings(card_settings(gpu.uuid))
    try:
        monitor = Monitor(gpu.uuid)
    except OSError as error:
        yield Finding("gpu state", "bad", str(error))
        return
    before = monitor.energy_mj()
    readings = monitor.watch(watch_s)
    yield energy_finding(before, monitor.energy_mj())
    yield from state_findings(readings, gpu.memory_bytes)


def torch_cuda() -> str | None:
    """CUDA version that the installed torch is built for, read without importing it.

    Returns:
        `13.0`; an empty text for a build without CUDA; None without torch.
    """
    spec = find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    version = Path(spec.origin).with_name("version.py").read_text()
    match = re.search(r"^cuda\b[^=\n]*=\s*['\"]([\d.]+)", version, re.MULTILINE)
    return match.group(1) if match else ""


def driver_misfit(driver: str | None, driver_cuda: str | None, built_for: str | None) -> str | None:
    """Why torch cannot use a card with this driver; None when it can, or when that is not known.

    Args:
        driver: Version of the driver.
        driver_cuda: Newest CUDA that it supports, `12.8`.
        built_for: Of `torch_cuda`.
    """
    if built_for is None:
        return "torch is not installed"
    if not built_for:
        return "torch is a build without CUDA: install one with it"
    if driver_cuda is None or _major(driver_cuda) >= _major(built_for):
        return None
    return (
        f"driver {driver or 'unknown'} supports CUDA {driver_cuda}, this torch needs {built_for}: "
        f"update the driver, or install a torch built for CUDA {_major(driver_cuda)}"
    )


def _major(version: str) -> int:
    """Newer toolkits of one major version run on every driver of it."""
    return int(version.split(".")[0])


def driver_finding(driver: str | None, driver_cuda: str | None, built_for: str | None) -> Finding:
    """Whether the driver can run the torch that is installed."""
    if why := driver_misfit(driver, driver_cuda, built_for):
        return Finding("driver", "bad", why)
    found = (
        f"{driver or 'unknown'}, CUDA {driver_cuda or 'unknown'}, torch is built for {built_for}"
    )
    if driver_cuda is None:
        return Finding("driver", "warn", f"{found}; whether they fit is not known")
    return Finding("driver", "ok", found)


def require_driver(gpu: Gpu) -> None:
    """Refuse a card that the installed torch cannot use, before anything is prepared for it.

    Raises:
        InfrastructureError: The driver is too old for it, or torch is a build without CUDA.
    """
    facts = driver_facts(gpu.uuid)
    if why := driver_misfit(facts.get("driver"), facts.get("cuda_driver"), torch_cuda()):
        raise InfrastructureError(f"{gpu.name}: {why}; `--gpu cpu` measures on the CPU")


def compute_capability(uuid: str) -> tuple[int, int] | None:
    """Of a card, (9, 0) for an H100; None where the driver does not tell."""
    with library() as nvml:
        handle = None if nvml is None else ask(nvml, "nvmlDeviceGetHandleByUUID", uuid)
        if nvml is None or handle is None:
            return None
        found = ask(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    return None if found is None else (int(found[0]), int(found[1]))


def capability_finding(capability: tuple[int, int] | None) -> Finding:
    """Whether the card has what the optimized pipelines are written for."""
    if capability is None:
        return _unknown("compute capability")
    found = ".".join(map(str, capability))
    if capability >= FULL_CAPABILITY:
        return Finding("compute capability", "ok", found)
    return Finding(
        "compute capability", "warn", f"{found}, below 8.0: no fused kernels and no flash "
        "attention, PyTorch's own operators compute instead and figures are those of an old card",
    )  # fmt: skip


def setting_findings(settings: CardSettings) -> Iterator[Finding]:
    """What each known setting means for a measurement."""
    yield _clocks(settings)
    yield _power(settings)
    yield _flag(
        "persistence mode", settings.persistence, good=True,
        otherwise="each start of a worker waits for the driver; `nvidia-smi -pm 1` turns it on",
    )  # fmt: skip
    yield _ecc(settings)
    yield _flag(
        "MIG", settings.mig, good=False,
        otherwise="an instance is measured, not the card; compare with equal instances only",
    )  # fmt: skip
    yield _link(settings)
    yield _flag(
        "display", settings.display, good=False,
        otherwise="it takes memory and time of the card; measure without one",
    )  # fmt: skip


def _unknown(what: str) -> Finding:
    return Finding(what, "ok", "not told by the driver")


def _flag(what: str, value: bool | None, *, good: bool, otherwise: str) -> Finding:
    if value is None:
        return _unknown(what)
    state = "on" if value else "off"
    return (
        Finding(what, "ok", state)
        if value is good
        else Finding(what, "warn", f"{state}: {otherwise}")
    )


def _clocks(settings: CardSettings) -> Finding:
    asked, default = settings.application_clock_mhz, settings.default_clock_mhz
    if settings.max_clock_mhz is None:
        return _unknown("clocks")
    found = f"SM up to {settings.max_clock_mhz} MHz"
    if asked is None or default is None or asked == default:
        return Finding("clocks", "ok", f"{found}, none set (a lock shows under load only)")
    return Finding(
        "clocks", "warn", f"{found}, held at {asked} MHz by a user (default {default}); "
        "`nvidia-smi -rac` releases them",
    )  # fmt: skip


def _power(settings: CardSettings) -> Finding:
    limit, default = settings.power_limit_w, settings.default_power_w
    if limit is None:
        return _unknown("power limit")
    if default is None or limit >= default:
        return Finding("power limit", "ok", f"{limit:.0f} W")
    return Finding(
        "power limit", "warn", f"{limit:.0f} W instead of {default:.0f} W; times are those of a "
        f"slower card, `nvidia-smi -pl {default:.0f}` resets it",
    )  # fmt: skip


def _ecc(settings: CardSettings) -> Finding:
    if settings.ecc is None:
        return _unknown("ECC")
    state = "on" if settings.ecc else "off"
    if settings.ecc_errors:
        return Finding(
            "ECC", "warn", f"{state}, {settings.ecc_errors} uncorrected errors since the driver "
            "was loaded; pictures may be damaged, have the card checked",
        )  # fmt: skip
    return Finding("ECC", "ok", state)


def _link(settings: CardSettings) -> Finding:
    width, most = settings.link_width, settings.max_link_width
    if width is None:
        return _unknown("PCIe link")
    if most is None or width >= most:
        return Finding("PCIe link", "ok", f"x{width}")
    return Finding(
        "PCIe link", "warn", f"x{width} of x{most}: copies to the host are slower; check the slot"
    )


def energy_finding(before_mj: int | None, after_mj: int | None) -> Finding:
    """Whether the energy counter can be used, from two readings more than a second apart."""
    if before_mj is None or after_mj is None:
        return Finding("energy counter", "warn", "this card has none; no energy is reported")
    if after_mj <= before_mj:
        return Finding("energy counter", "warn", "it does not advance; no energy is reported")
    return Finding("energy counter", "ok", "advances")


def state_findings(readings: list[dict[str, Any]], memory_bytes: int) -> Iterator[Finding]:
    """What readings of a card that should be at rest tell."""
    last = readings[-1]
    used = last["memory_used_bytes"]
    if used is None:
        yield _unknown("free memory")
    else:
        free = memory_bytes - used
        detail = f"{free / 2**30:.1f} of {memory_bytes / 2**30:.1f} GiB"
        good = free >= FREE_SHARE * memory_bytes
        yield Finding(
            "free memory", "ok" if good else "warn",
            detail if good else f"{detail}; somebody keeps the rest, `nvidia-smi` may tell who",
        )  # fmt: skip
    company = exclusive(readings)
    if company is not None:
        yield Finding("exclusive", "bad", f"{company}; wait for it or end it")
    elif last["compute_pids"] is None:
        yield Finding(
            "exclusive", "warn", "the driver does not list processes; be alone on the card"
        )
    else:
        yield Finding("exclusive", "ok", "no other compute process, idle")
    mask = last["throttle_reasons"] or 0
    hot = throttle_names(mask & ~0x1)
    heat = f"{last['temperature_c']} °C, " if last["temperature_c"] is not None else ""
    yield Finding(
        "clock reasons", "warn" if hot else "ok", heat + (", ".join(hot) if hot else "no slow-down")
    )
