"""A management library with one card, in the binding's own names; the real code runs on top of it.

Install it with `monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())`.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

UUID = "GPU-5eed"
GIB = 2**30

HEALTHY = {
    "nvmlDeviceGetMaxClockInfo": 1695,
    "nvmlDeviceGetApplicationsClock": 1695,
    "nvmlDeviceGetDefaultApplicationsClock": 1695,
    "nvmlDeviceGetEnforcedPowerLimit": 150_000,
    "nvmlDeviceGetPowerManagementDefaultLimit": 150_000,
    "nvmlDeviceGetPersistenceMode": 1,
    "nvmlDeviceGetEccMode": [1, 1],
    "nvmlDeviceGetTotalEccErrors": 0,
    "nvmlDeviceGetMigMode": [0, 0],
    "nvmlDeviceGetCurrPcieLinkWidth": 16,
    "nvmlDeviceGetMaxPcieLinkWidth": 16,
    "nvmlDeviceGetDisplayActive": 0,
    "nvmlDeviceGetDisplayMode": 0,
}
"""Settings of a card that nobody changed, to be added to `FakeNvml.answers`."""


class FakeNvmlError(Exception):
    """What the binding raises for everything that a driver or card does not support."""


class FakeNvml:
    """One card. Its energy counter is the integral of what it draws, over real time.

    Attributes:
        answers: Function name -> value, or a callable for what changes or takes arguments; a name
            that is not here is not supported.
        instant_factor: What the instant power sensor shows of the true power.
    """

    NVMLError = FakeNvmlError
    NVML_SUCCESS = 0
    NVML_CLOCK_SM = 1
    NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    NVML_FI_DEV_POWER_INSTANT = 186

    def __init__(self) -> None:
        self.instant_factor = 1.0
        self._watts, self._joules, self._since = 50.0, 1000.0, time.perf_counter()
        self.answers: dict[str, Any] = {
            "nvmlInit": None,
            "nvmlShutdown": None,
            "nvmlSystemGetDriverVersion": "580.65.06",
            "nvmlSystemGetCudaDriverVersion_v2": 13000,
            "nvmlDeviceGetCount": 1,
            "nvmlDeviceGetHandleByIndex": "card",
            "nvmlDeviceGetHandleByUUID": _card,
            "nvmlDeviceGetName": b"NVIDIA A10",
            "nvmlDeviceGetUUID": UUID,
            "nvmlDeviceGetMemoryInfo": SimpleNamespace(total=24 * GIB, used=GIB),
            "nvmlDeviceGetClockInfo": 1410,
            "nvmlDeviceGetTemperature": 61,
            "nvmlDeviceGetUtilizationRates": SimpleNamespace(gpu=0, memory=0),
            "nvmlDeviceGetCurrentClocksEventReasons": 0,
            "nvmlDeviceGetCurrentClocksThrottleReasons": 0,
            "nvmlDeviceGetPowerUsage": lambda card: round(self._watts * 1000),
            "nvmlDeviceGetFieldValues": self._fields,
            "nvmlDeviceGetTotalEnergyConsumption": self._counter_mj,
        }
        self.list_processes()

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("nvml"):
            raise AttributeError(name)
        if name not in self.answers:
            return _refuse
        answer = self.answers[name]
        return answer if callable(answer) else lambda *arguments: answer

    def lacks(self, *names: str) -> None:
        """Functions that this card does not support."""
        for name in names:
            del self.answers[name]

    def list_processes(self, *processes: tuple[int, int | None]) -> None:
        """Have these (process id, bytes) compute on the card."""
        found = [SimpleNamespace(pid=pid, usedGpuMemory=size) for pid, size in processes]
        for version in ("v2", "v3"):
            self.answers[f"nvmlDeviceGetComputeRunningProcesses_{version}"] = found

    def draw(self, watts: float) -> None:
        """From now on."""
        self._counter_mj()
        self._watts = watts

    def _counter_mj(self, card: str = "card") -> int:
        now = time.perf_counter()
        self._joules += self._watts * (now - self._since)
        self._since = now
        return round(self._joules * 1000)

    def _fields(self, card: str, fields: list[int]) -> list[SimpleNamespace]:
        milliwatts = round(self._watts * self.instant_factor * 1000)
        return [
            SimpleNamespace(nvmlReturn=self.NVML_SUCCESS, value=SimpleNamespace(uiVal=milliwatts))
            for _ in fields
        ]


def _card(uuid: str) -> str:
    if uuid != UUID:
        raise FakeNvmlError("Not Found")
    return "card"


def _refuse(*arguments: Any) -> Any:
    raise FakeNvmlError("Not Supported")
