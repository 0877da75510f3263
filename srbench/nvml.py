"""NVIDIA's management library: cards, clocks, power, memory. No driver means no cards."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any


@dataclass(frozen=True, slots=True)
class Gpu:
    """A card as the driver names it.

    Attributes:
        index: Position in PCI bus order.
        name: For example `NVIDIA A10`.
        uuid: The driver's identifier.
        memory_bytes: Total memory.
    """

    index: int
    name: str
    uuid: str
    memory_bytes: int


_PROCESSES = (
    "nvmlDeviceGetComputeRunningProcesses_v3",
    "nvmlDeviceGetComputeRunningProcesses_v2",
)
"""Versioned names: without a version the binding raises an error of its own on older drivers."""

_EVENT_REASONS = (
    "nvmlDeviceGetCurrentClocksEventReasons",
    "nvmlDeviceGetCurrentClocksThrottleReasons",
)
"""The same mask, renamed in driver 535."""


@contextmanager
def library() -> Iterator[ModuleType | None]:
    """The management library, open; None without one or without a driver."""
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def ask(nvml: ModuleType, names: str | tuple[str, ...], *arguments: Any) -> Any:
    """Answer of the first of the named functions that this binding, driver and card support."""
    for name in (names,) if isinstance(names, str) else names:
        function = getattr(nvml, name, None)
        if function is None:
            continue
        try:
            return function(*arguments)
        except nvml.NVMLError:
            continue
    return None


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def visible_order(gpus: list[Gpu], visible: str | None) -> list[Gpu]:
    """Cards in the order CUDA numbers them under a value of `CUDA_VISIBLE_DEVICES`.

    As in CUDA, the list ends at the first entry that names no card.
    """
    if visible is None:
        return gpus
    chosen: list[Gpu] = []
    for entry in (part.strip() for part in visible.split(",")):
        match = [
            gpu for gpu in gpus if entry and (entry == str(gpu.index) or gpu.uuid.startswith(entry))
        ]
        if not match:
            break
        chosen.append(match[0])
    return chosen


def list_gpus() -> list[Gpu]:
    """Cards that CUDA would see, first the one it would use; empty without a driver."""
    with library() as nvml:
        if nvml is None:
            return []
        found = []
        try:
            for index in range(nvml.nvmlDeviceGetCount()):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                found.append(
                    Gpu(
                        index=index,
                        name=_text(nvml.nvmlDeviceGetName(handle)),
                        uuid=_text(nvml.nvmlDeviceGetUUID(handle)),
                        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
                    )
                )
        except nvml.NVMLError:
            return []
    return visible_order(found, os.environ.get("CUDA_VISIBLE_DEVICES"))


def driver_facts(uuid: str) -> dict[str, Any]:
    """Driver and CUDA version and power limit of a card; values it will not tell are None."""
    with library() as nvml:
        if nvml is None:
            return {}
        handle = ask(nvml, "nvmlDeviceGetHandleByUUID", uuid)
        if handle is None:
            return {}
        driver = ask(nvml, "nvmlSystemGetDriverVersion")
        cuda = ask(nvml, "nvmlSystemGetCudaDriverVersion_v2")
        return {
            "driver": None if driver is None else _text(driver),
            "cuda_driver": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
            "power_limit_w": watts(ask(nvml, "nvmlDeviceGetEnforcedPowerLimit", handle)),
        }


def watts(milliwatts: int | None) -> float | None:
    """W of NVML's mW."""
    return None if milliwatts is None else milliwatts / 1000


class Monitor:
    """Readings of one card, with the library kept open; every reading is None where unsupported."""

    def __init__(self, uuid: str) -> None:
        """Open the card with that identifier.

        Raises:
            OSError: The driver does not answer for it.
        """
        import pynvml

        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError as error:
            raise OSError(f"NVML does not answer for {uuid}: {error}") from error

    def _ask(self, names: str | tuple[str, ...], *arguments: Any) -> Any:
        return ask(self._nvml, names, self._handle, *arguments)

    def state(self) -> dict[str, Any]:
        """One reading: a handful of driver calls, for outside of the timed span.

        Returns:
            `sm_clock_mhz`; `power_w` (mean of the last second on GA10x and newer, else an instant);
            `power_instant_w` (drivers from 530); `temperature_c`; `throttle_reasons` (bit mask of
            clock event reasons); `utilization_pct` (share of the driver's last sampling period,
            1/6 to 1 s, in which a kernel ran); `memory_used_bytes` (on the whole card);
            `compute_pids` (sorted, as the driver numbers them: in a container they may be the
            host's, and 0 where it hides them).
        """
        nvml = self._nvml
        load = self._ask("nvmlDeviceGetUtilizationRates")
        memory = self._ask("nvmlDeviceGetMemoryInfo")
        processes = self._ask(_PROCESSES)
        return {
            "sm_clock_mhz": self._ask("nvmlDeviceGetClockInfo", nvml.NVML_CLOCK_SM),
            **self.power(),
            "temperature_c": self._ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
            "throttle_reasons": self._ask(_EVENT_REASONS),
            "utilization_pct": None if load is None else int(load.gpu),
            "memory_used_bytes": None if memory is None else int(memory.used),
            "compute_pids": None if processes is None else sorted(int(p.pid) for p in processes),
        }

    def power(self) -> dict[str, float | None]:
        """`power_w` and `power_instant_w` of `state` alone."""
        return {
            "power_w": watts(self._ask("nvmlDeviceGetPowerUsage")),
            "power_instant_w": watts(self._instant_power_mw()),
        }

    def _instant_power_mw(self) -> int | None:
        field = getattr(self._nvml, "NVML_FI_DEV_POWER_INSTANT", None)
        values = None if field is None else self._ask("nvmlDeviceGetFieldValues", [field])
        if not values or values[0].nvmlReturn != self._nvml.NVML_SUCCESS:
            return None
        return int(values[0].value.uiVal)

    def watch(self, seconds: float) -> list[dict[str, Any]]:
        """Readings over a time, first and last included: what a single one shows may be over."""
        readings, end = [self.state()], time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(seconds / 6)
            readings.append(self.state())
        return readings

    def energy_mj(self) -> int | None:
        """Energy drawn since the driver was loaded, mJ."""
        value = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if value is None else int(value)

    def processes(self) -> list[tuple[int, int | None]]:
        """Compute processes and the memory the driver accounts to them.

        Returns:
            (process id, bytes or None where it does not say); see `state` for the ids.
        """
        return [
            (
                int(process.pid),
                None if process.usedGpuMemory is None else int(process.usedGpuMemory),
            )
            for process in self._ask(_PROCESSES) or ()
        ]
