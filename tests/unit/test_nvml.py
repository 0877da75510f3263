"""Readings of a card through the binding's own functions."""

import importlib
import sys
from types import SimpleNamespace

import pytest

from srbench.nvml import Monitor, driver_facts, list_gpus
from tests.fake_nvml import GIB, HEALTHY, UUID, FakeNvml


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def test_the_fake_has_no_name_of_its_own(card: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that the binding lacks would read as unsupported on every card."""
    monkeypatch.delitem(sys.modules, "pynvml")
    binding = importlib.import_module("pynvml")
    constants = [name for name in vars(FakeNvml) if name.startswith("NVML_")]
    assert {name: getattr(binding, name) for name in constants} == {
        name: getattr(card, name) for name in constants
    }
    assert [name for name in (*card.answers, *HEALTHY) if not hasattr(binding, name)] == []


def test_a_reading_has_everything(card: FakeNvml) -> None:
    card.list_processes((31, 5), (7, None))
    card.instant_factor = 1.2
    card.answers["nvmlDeviceGetCurrentClocksEventReasons"] = 0x24
    card.answers["nvmlDeviceGetUtilizationRates"] = SimpleNamespace(gpu=12, memory=1)
    assert Monitor(UUID).state() == {
        "sm_clock_mhz": 1410,
        "power_w": 50.0,
        "power_instant_w": 60.0,
        "temperature_c": 61,
        "throttle_reasons": 0x24,
        "utilization_pct": 12,
        "memory_used_bytes": GIB,
        "compute_pids": [7, 31],
    }
    assert Monitor(UUID).processes() == [(31, 5), (7, None)]


def test_a_card_that_tells_nothing_reads_none(card: FakeNvml) -> None:
    monitor = Monitor(UUID)
    card.answers.clear()
    assert set(monitor.state().values()) == {None}
    assert monitor.energy_mj() is None
    assert monitor.processes() == []


def test_older_names_are_used_where_the_driver_lacks_the_new(card: FakeNvml) -> None:
    card.answers["nvmlDeviceGetCurrentClocksThrottleReasons"] = 0x4
    card.list_processes((9, 1))
    card.lacks("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetComputeRunningProcesses_v3")
    reading = Monitor(UUID).state()
    assert (reading["throttle_reasons"], reading["compute_pids"]) == (0x4, [9])


def test_instant_power_is_none_where_binding_or_card_lacks_it(
    card: FakeNvml, monkeypatch: pytest.MonkeyPatch
) -> None:
    monitor = Monitor(UUID)
    refused = SimpleNamespace(nvmlReturn=3, value=SimpleNamespace(uiVal=0))
    card.answers["nvmlDeviceGetFieldValues"] = [refused]
    assert monitor.power() == {"power_w": 50.0, "power_instant_w": None}
    monkeypatch.delattr(FakeNvml, "NVML_FI_DEV_POWER_INSTANT")
    assert monitor.power() == {"power_w": 50.0, "power_instant_w": None}


def test_watching_shows_what_changes(card: FakeNvml) -> None:
    loads = iter(range(90, 0, -1))
    card.answers["nvmlDeviceGetUtilizationRates"] = lambda card: SimpleNamespace(gpu=next(loads))
    readings = Monitor(UUID).watch(0.05)
    shown = [reading["utilization_pct"] for reading in readings]
    assert len(shown) >= 3
    assert shown == list(range(90, 90 - len(shown), -1))


def test_the_card_by_name(card: FakeNvml, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    (gpu,) = list_gpus()
    assert (gpu.name, gpu.memory_bytes) == ("NVIDIA A10", 24 * GIB)
    assert driver_facts(gpu.uuid) == {
        "driver": "580.65.06",
        "cuda_driver": "13.0",
        "power_limit_w": None,
    }
    assert driver_facts("GPU-gone") == {}
    with pytest.raises(OSError, match="GPU-gone"):
        Monitor("GPU-gone")
