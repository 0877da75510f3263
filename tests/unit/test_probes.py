import time
from pathlib import Path

import numpy as np
import pytest

from pipelines.contract import stage
from srbench import nvml
from srbench.fingerprint import fingerprint, git_state
from srbench.probes.clock import timed
from srbench.probes.memory import Listing, MemoryProbe, bytes_of_process
from srbench.probes.stages import StageClock

MIB = 2**20


def test_the_timed_span_is_the_call() -> None:
    before = time.perf_counter()
    timing = timed(lambda: time.sleep(0.05) or "done", "cpu")
    around_ms = 1e3 * (time.perf_counter() - before)
    assert timing.result == "done"
    assert 50 <= timing.latency_ms <= around_ms
    assert timing.gpu_ms is None
    assert timing.stages_ms == {}


def test_stages_add_up_in_order_of_appearance() -> None:
    def image() -> None:
        for _ in range(2):
            with stage("vae_encode"):
                time.sleep(0.02)
            with stage("unet"):
                time.sleep(0.01)

    timing = timed(image, "cpu")
    assert list(timing.stages_ms) == ["vae_encode", "unet"]
    assert timing.stages_ms["vae_encode"] >= 40
    assert timing.stages_ms["unet"] >= 20
    assert sum(timing.stages_ms.values()) <= timing.latency_ms


def test_nobody_listens_after_an_error() -> None:
    def broken() -> None:
        with stage("unet"):
            raise ValueError("bug")

    with pytest.raises(ValueError, match="bug"):
        timed(broken, "cpu")
    assert timed(lambda: None, "cpu").stages_ms == {}


def test_nested_stages_are_kept_apart() -> None:
    clock = StageClock("cpu")
    clock.enter("vae_decode")
    clock.enter("color_fix")
    time.sleep(0.01)
    clock.exit("color_fix")
    clock.exit("vae_decode")
    stages = clock.stages_ms()
    assert stages["vae_decode"] >= stages["color_fix"] >= 10


def test_peak_of_the_host_is_that_of_the_image() -> None:
    quiet = MemoryProbe("cpu").read()
    probe = MemoryProbe("cpu")
    block = np.ones(200 * MIB, np.uint8)
    del block
    loud = probe.read()
    assert quiet["rss_peak_bytes"] is not None
    assert loud["rss_peak_bytes"] is not None
    assert 150 * MIB < loud["rss_peak_bytes"] - quiet["rss_peak_bytes"] < 400 * MIB
    assert loud["allocator_peak_bytes"] is None
    assert loud["process_vram_bytes"] is None


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ([], [(1, 10), (2, 20)], 10),
        ([(1, 5)], [(1, None)], None),
        # Ids of the host: ours is the one that changed while we alone computed.
        ([(51, 5), (52, 7)], [(51, 5), (52, 9)], 9),
        ([(51, 5)], [(51, 5)], None),
        ([(51, 5), (52, 7)], [(51, 6), (52, 9)], None),
        ([(0, 5), (0, 7)], [(0, 8), (0, 7)], 8),
        ([], [], None),
    ],
)
def test_which_process_is_ours(before: Listing, after: Listing, found: int | None) -> None:
    assert bytes_of_process(1, before, after) == found


def test_machine_without_a_driver_has_no_cards() -> None:
    for gpu in nvml.list_gpus():
        assert gpu.memory_bytes > 0
    if not nvml.list_gpus():
        with pytest.raises(OSError, match="NVML"):
            nvml.Monitor("GPU-0")
        assert nvml.driver_facts("GPU-0") == {}


def test_fingerprint_names_the_machine_and_nobody() -> None:
    import platform

    facts = fingerprint(None)
    assert facts["cpu_cores"] >= 1
    assert facts["ram_bytes"] > 2**28
    assert facts["versions"]["torch"]
    assert platform.node() not in str(facts)
    assert "gpu_name" not in facts


def test_git_state_outside_a_repository(tmp_path: Path) -> None:
    assert git_state(tmp_path) == {"commit": None, "dirty": None}
