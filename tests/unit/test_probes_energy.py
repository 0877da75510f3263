"""Energy of an image on a card that draws 50 W at rest and 250 W at work."""

import sys
import threading
import time

import pytest

from srbench.nvml import Monitor
from srbench.probes.energy import Energy, measure_energy
from tests.fake_nvml import UUID, FakeNvml

REST_W, WORK_W = 50.0, 250.0


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake


def measured(card: FakeNvml, window_s: float = 0.4) -> Energy:
    def image() -> None:
        card.draw(WORK_W)
        time.sleep(0.02)

    return measure_energy(image, Monitor(UUID), window_s=window_s, idle_s=0.05)


def test_gross_net_and_polled(card: FakeNvml) -> None:
    energy = measured(card)
    assert energy.reason is None
    assert energy.window_s is not None
    assert energy.window_s >= 0.4
    assert energy.images is not None
    assert energy.gross_j is not None
    assert energy.net_j is not None
    each_s = energy.window_s / energy.images
    assert energy.idle_w == pytest.approx(REST_W, rel=0.02)
    assert energy.gross_j == pytest.approx(WORK_W * each_s, rel=0.02)
    assert energy.net_j == pytest.approx((WORK_W - REST_W) * each_s, rel=0.02)
    assert energy.polled_j == pytest.approx(energy.gross_j, rel=0.2)
    assert energy.to_record() == {
        "gross_j": energy.gross_j,
        "net_j": energy.net_j,
        "polled_j": energy.polled_j,
        "idle_w": energy.idle_w,
        "window_s": energy.window_s,
        "images": energy.images,
    }


def test_a_window_has_three_images(card: FakeNvml) -> None:
    assert measured(card, window_s=0.001).images == 3


def test_a_sensor_that_disagrees_is_kept(card: FakeNvml) -> None:
    card.instant_factor = 1.5
    energy = measured(card)
    assert energy.gross_j is not None
    assert energy.polled_j == pytest.approx(1.5 * energy.gross_j, rel=0.2)


def test_of_an_averaging_sensor_the_first_second_is_not_used(card: FakeNvml) -> None:
    card.lacks("nvmlDeviceGetFieldValues")
    assert measured(card).polled_j is None
    energy = measured(card, window_s=1.4)
    assert energy.polled_j == pytest.approx(energy.gross_j, rel=0.05)


def test_a_card_without_power_readings_is_measured_by_its_counter(card: FakeNvml) -> None:
    card.lacks("nvmlDeviceGetFieldValues", "nvmlDeviceGetPowerUsage")
    energy = measured(card)
    assert energy.gross_j is not None
    assert energy.polled_j is None


def test_energy_is_never_made_up(card: FakeNvml) -> None:
    assert measure_energy(lambda: None, None) == Energy(reason="no energy counter on this device")
    card.draw(0.0)
    stuck = measure_energy(lambda: None, Monitor(UUID), window_s=0.01, idle_s=0.01)
    assert stuck == Energy(reason="the energy counter did not advance")
    card.lacks("nvmlDeviceGetTotalEnergyConsumption")
    none = measured(card)
    assert none == Energy(reason="the card has no total-energy counter")
    assert none.to_record() == {}


def test_a_broken_image_ends_the_polling(card: FakeNvml) -> None:
    def broken() -> None:
        raise ValueError("bug")

    before = threading.active_count()
    with pytest.raises(ValueError, match="bug"):
        measure_energy(broken, Monitor(UUID), window_s=0.01, idle_s=0.01)
    assert threading.active_count() == before
