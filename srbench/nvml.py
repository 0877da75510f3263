"""NVIDIA's management library: cards, clocks, power, memory. No driver means no cards."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
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


@contextmanager
def _library() -> Iterator[ModuleType | None]:
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
    with _library() as library:
        if library is None:
            return []
        found = []
        try:
            for index in range(library.nvmlDeviceGetCount()):
                handle = library.nvmlDeviceGetHandleByIndex(index)
                found.append(
                    Gpu(
                        index=index,
                        name=_text(library.nvmlDeviceGetName(handle)),
                        uuid=_text(library.nvmlDeviceGetUUID(handle)),
                        memory_bytes=int(library.nvmlDeviceGetMemoryInfo(handle).total),
                    )
                )
        except library.NVMLError:
            return []
    return visible_order(found, os.environ.get("CUDA_VISIBLE_DEVICES"))


def driver_facts(uuid: str) -> dict[str, Any]:
    """Driver and CUDA version and power limit of a card; values it will not tell are None."""
    with _library() as library:
        if library is None:
            return {}
        handle = library.nvmlDeviceGetHandleByUUID(uuid)

        def ask(call: Callable[[], Any]) -> Any:
            try:
                return call()
            except library.NVMLError:
                return None

        driver = ask(library.nvmlSystemGetDriverVersion)
        cuda = ask(library.nvmlSystemGetCudaDriverVersion_v2)
        limit = ask(lambda: library.nvmlDeviceGetEnforcedPowerLimit(handle))
        return {
            "driver": None if driver is None else _text(driver),
            "cuda_driver": None if cuda is None else f"{cuda // 1000}.{cuda % 1000 // 10}",
            "power_limit_w": None if limit is None else limit / 1000,
        }


class Monitor:
    """Readings of one card, with the library kept open; every reading is None where unsupported."""

    def __init__(self, uuid: str) -> None:
        """Open the card with that identifier.

        Raises:
            OSError: The driver does not answer for it.
        """
        import pynvml

        self._library = pynvml
        try:
            pynvml.nvmlInit()
            self._handle = pynvml.nvmlDeviceGetHandleByUUID(uuid)
        except pynvml.NVMLError as error:
            raise OSError(f"NVML does not answer for {uuid}: {error}") from error

    def _ask(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except self._library.NVMLError:
            return None

    def state(self) -> dict[str, int | float | None]:
        """Clock in MHz, power in W, temperature in °C and the bit mask of throttle reasons."""
        library, handle = self._library, self._handle
        power_mw = self._ask(lambda: library.nvmlDeviceGetPowerUsage(handle))
        return {
            "sm_clock_mhz": self._ask(
                lambda: library.nvmlDeviceGetClockInfo(handle, library.NVML_CLOCK_SM)
            ),
            "power_w": None if power_mw is None else power_mw / 1000,
            "temperature_c": self._ask(
                lambda: library.nvmlDeviceGetTemperature(handle, library.NVML_TEMPERATURE_GPU)
            ),
            "throttle_reasons": self._ask(
                lambda: library.nvmlDeviceGetCurrentClocksThrottleReasons(handle)
            ),
        }

    def energy_mj(self) -> int | None:
        """Energy drawn since the driver was loaded, mJ."""
        value = self._ask(lambda: self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle))
        return None if value is None else int(value)

    def process_bytes(self, pid: int) -> int | None:
        """Memory the driver accounts to a process; None where process ids are hidden from it."""
        library = self._library
        processes = self._ask(lambda: library.nvmlDeviceGetComputeRunningProcesses(self._handle))
        for process in processes or []:
            if process.pid == pid and process.usedGpuMemory is not None:
                return int(process.usedGpuMemory)
        return None
