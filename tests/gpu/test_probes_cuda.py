"""The probes on a real card: what the driver tells against what PyTorch was asked to do."""

import os
import time
from collections.abc import Iterator

import pytest
import torch

from pipelines.work import WorkCounter, note_transfer
from srbench.doctor_card import examine_card, torch_cuda
from srbench.nvml import Gpu, Monitor, list_gpus
from srbench.probes.clock import timed
from srbench.probes.disturbance import disturbances
from srbench.probes.energy import measure_energy
from srbench.probes.memory import MemoryProbe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
MIB = 2**20


@pytest.fixture(scope="module")
def gpu() -> Gpu:
    return list_gpus()[0]


@pytest.fixture(scope="module")
def monitor(gpu: Gpu) -> Monitor:
    torch.zeros(1, device="cuda")
    return Monitor(gpu.uuid)


@pytest.fixture(autouse=True)
def _fp32_arithmetic() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    yield
    torch.backends.cuda.matmul.allow_tf32 = before


def burn(seconds: float = 0.05) -> None:
    """Keep the card at work, and wait for it."""
    x = torch.randn(2048, 2048, device="cuda")
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for _ in range(4):
            x = torch.tanh(x @ x)
        torch.cuda.synchronize()


def test_a_reading_is_cheap_and_plausible(monitor: Monitor) -> None:
    burn()
    state = monitor.state()
    assert state["sm_clock_mhz"] > 100
    assert 5 < state["power_w"] < 2000
    assert 10 < state["temperature_c"] < 110
    assert state["memory_used_bytes"] > 100 * MIB
    start = time.perf_counter()
    for _ in range(20):
        monitor.state()
    assert (time.perf_counter() - start) / 20 < 0.02


def test_our_own_process_is_no_disturbance(monitor: Monitor) -> None:
    burn()
    states = [{"compute_pids": monitor.state()["compute_pids"]}]
    found = disturbances(states, {os.getpid()}, together=1)
    assert found == []


def test_four_memory_numbers(monitor: Monitor) -> None:
    keep = torch.zeros(8 * MIB, dtype=torch.uint8, device="cuda")
    torch.zeros(512 * MIB, dtype=torch.uint8, device="cuda")
    probe = MemoryProbe("cuda", monitor)
    block = torch.zeros(256 * MIB, dtype=torch.uint8, device="cuda")
    del block
    read = probe.read()
    allocated, reserved = read["allocator_peak_bytes"], read["reserved_peak_bytes"]
    assert allocated is not None
    assert reserved is not None
    assert 256 * MIB + keep.numel() <= allocated < 300 * MIB
    assert allocated <= reserved < 512 * MIB
    if read["process_vram_bytes"] is not None:
        assert reserved < read["process_vram_bytes"] < reserved + 3000 * MIB


def test_memory_given_back_still_counts(monitor: Monitor) -> None:
    """A pipeline that empties the cache in every image does not look smaller to the driver."""
    probe = MemoryProbe("cuda", monitor)
    block = torch.zeros(1024 * MIB, dtype=torch.uint8, device="cuda")
    del block
    torch.cuda.empty_cache()
    burn(0.01)
    read = probe.read()
    if read["process_vram_bytes"] is None:
        pytest.skip("the driver does not tell our process's memory here")
    assert read["process_vram_bytes"] > 1024 * MIB


def test_energy_by_counter_and_by_polling(monitor: Monitor) -> None:
    if monitor.energy_mj() is None:
        pytest.skip("this card has no energy counter")
    energy = measure_energy(burn, monitor, window_s=6.0, idle_s=3.0)
    assert energy.reason is None
    assert energy.gross_j is not None
    assert energy.net_j is not None
    assert 0 < energy.net_j < energy.gross_j
    assert energy.images is not None
    assert energy.images >= 3
    assert energy.polled_j == pytest.approx(energy.gross_j, rel=0.15)


def test_events_fit_into_the_wall_clock() -> None:
    timing = timed(lambda: burn(0.05), "cuda")
    assert timing.gpu_ms is not None
    assert timing.gpu_ms == pytest.approx(timing.latency_ms, rel=0.1)


def _block(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    functional = torch.nn.functional
    heads = functional.linear(x, weight, weight[0]).unflatten(-1, (2, 32)).transpose(1, 2)
    joined = functional.scaled_dot_product_attention(heads, heads, heads)
    return functional.linear(joined.transpose(1, 2).flatten(2), weight, weight[1])


@pytest.mark.parametrize("cast", [False, True])
def test_work_is_counted_as_on_the_meta_device(*, cast: bool) -> None:
    """Under autocast twice alike, with the FLOPs of fp32 and casts as launches of their own."""

    def count(device: str, *, cast: bool) -> WorkCounter:
        x = torch.ones(2, 128, 64, device=device)
        weight = torch.ones(64, 64, device=device)
        with (
            torch.inference_mode(),
            WorkCounter() as counter,
            torch.autocast("cuda", torch.float16, enabled=cast),
        ):
            note_transfer(_block(x, weight))
        return counter

    plain = count("meta", cast=False).counts()
    first, second = (count("cuda", cast=cast).counts() for _ in range(2))
    assert first == second
    assert first.flops == plain.flops
    assert first.launches > plain.launches if cast else first.launches == plain.launches
    size = 2 if cast else 4
    assert first.host_device_bytes == 2 * 128 * 64 * size


def test_the_doctor_examines_this_card(gpu: Gpu) -> None:
    findings = {finding.what: finding for finding in examine_card(gpu, watch_s=0.5)}
    assert findings["driver"].word == "ok"
    assert torch_cuda() == torch.version.cuda
    assert {"clocks", "power limit", "ECC", "MIG", "energy counter"} <= set(findings)
