"""What srbench reads of a card around a foreign engine's images; the card is simulated."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest

from srbench.arm import Arm
from srbench.cases import Case
from srbench.opening import fit_together
from srbench.probes.energy import measure_energy
from srbench.protocol import Alone, Solo, Timed, Upscale
from srbench.scratch import keep
from tests.contract.foreign import CASE, TOY, job_of
from tests.fake_nvml import GIB, UUID, FakeNvml


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> FakeNvml:
    fake = FakeNvml()
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    quick = functools.partial(measure_energy, window_s=0.3, idle_s=0.1)
    monkeypatch.setattr("srbench.watch.measure_energy", quick)
    return fake


def started(folder: Path, command: str) -> tuple[Arm, dict[str, Any]]:
    """An arm on a card and what its images are asked with."""
    job = job_of(folder, {"toy": command}, device="cuda", gpu_uuid=UUID)
    image = keep(job.inputs[CASE].pixels, str(folder / "input"), "0")
    arm = Arm("toy", job, folder, pytest.fail)
    assert arm.ready() is None
    return arm, {"image": image, "scale": Case.parse(CASE).scale, "seed": 7}


def test_the_card_is_read_around_every_image(tmp_path: Path, nvml: FakeNvml) -> None:
    """The computing process is a child of the one that was started: it counts as ours too."""
    arm, image = started(tmp_path, f"sh -c '{sys.executable} {TOY}; exit'")
    timed = arm.ask(Timed, Upscale(**image))
    assert fit_together({"toy": arm}, [CASE])  # it does not know what it needs
    arm.kill()
    assert isinstance(timed, Timed)
    assert set(timed.state) == {"before", "after", "answered_ms"}
    assert timed.state["before"]["sm_clock_mhz"] == 1410
    assert timed.state["answered_ms"] > timed.latency_ms
    assert len(arm.pids) == 2


def test_memory_and_energy_are_measured_from_outside(tmp_path: Path, nvml: FakeNvml) -> None:
    arm, image = started(tmp_path, f"{sys.executable} {TOY}")
    (pid,) = arm.pids
    nvml.list_processes((pid, 5 * GIB), (1, GIB))
    nvml.draw(200.0)
    alone = arm.ask(Alone, Solo(**image, outputs=str(tmp_path / "alone"), other_seed=8))
    arm.kill()
    assert isinstance(alone, Alone)
    assert alone.memory["process_vram_bytes"] == 5 * GIB
    assert (alone.memory["rss_peak_bytes"] or 0) > 5e6
    assert alone.memory["allocator_peak_bytes"] is None
    assert alone.energy_reason is None
    images, window_s = alone.energy["images"], alone.energy["window_s"]
    assert images is not None
    assert window_s is not None
    assert images >= 3
    assert alone.energy_j == pytest.approx(200.0 * window_s / images, rel=0.02)
    assert len(alone.states) == 3
    assert Path(str(alone.other_seed)).is_file()
    assert alone.repeat is None
