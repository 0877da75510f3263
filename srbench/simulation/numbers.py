"""The invented numbers of a simulated device: plausible in size, exact, the same every time."""

from __future__ import annotations

from math import ceil
from typing import Any

from srbench.cases import Case
from srbench.simulation.plants import Plants

LOAD_MS = 1200.0
HOT_C = 93.0
HEAT_FACTOR = 1.3
"""Of a time under thermal throttling."""

_STAGES = {"prompt": 0.02, "vae_encode": 0.21, "unet": 0.41, "vae_decode": 0.31, "color_fix": 0.04}
_GPU_SHARE = 0.98
_IDLE_W, _BUSY_W = 20.0, 140.0
_WINDOW_S = 10.0
_CLOCK_MHZ, _HOT_CLOCK_MHZ = 1695, 1215
_THERMAL = 0x20
_OWN_PIDS = (1 << 40, (1 << 40) + 1)
"""Above every real process id: as in a container, the driver lists ids that are not ours."""
_FOREIGN_PID = (1 << 40) + 2

GIB = 2**30


def true_ms(case: Case, speedup: float) -> float:
    """Time of an image without noise and plants."""
    return (40.0 + 2.4e-3 * case.output_pixels) / speedup


def prepare_ms(case: Case) -> float:
    """Time of the preparation of a size."""
    return 5.0 + 1e-5 * case.output_pixels


def warming(image: int) -> float:
    """Factor on the time of the image of that index after the start, from 0."""
    return 1.0 + 0.5 * 8.0**-image


def stages_ms(latency_ms: float) -> dict[str, float]:
    """Stage -> time."""
    return {stage: share * latency_ms for stage, share in _STAGES.items()}


def gpu_ms(latency_ms: float) -> float:
    """Device time of an image."""
    return _GPU_SHARE * latency_ms


def memory(case: Case, plants: Plants) -> dict[str, int | None]:
    """The memory numbers of `srbench.records.CellRecord`."""
    tensors = (2 * GIB + 4096 * case.output_pixels) * plants.memory
    allocated = tensors + 2 * GIB * plants.memory
    return {
        "peak_tensor_bytes": round(tensors),
        "allocator_peak_bytes": round(allocated),
        "reserved_peak_bytes": round(1.1 * allocated),
        "process_vram_bytes": round(1.1 * allocated) + GIB // 2,
        "rss_peak_bytes": 3 * GIB,
    }


def work(case: Case, plants: Plants) -> dict[str, Any]:
    """The work counters of `srbench.records.CellRecord`, with `flops` by stage."""
    return {
        "launches": round(4200 * plants.work),
        "host_device_bytes": 0,
        "calls": {"unet": 1, "text_encoder": 0, "vae_encoder": 1, "vae_decoder": 1},
        "flops": {
            stage: round(share * 5e6 * case.output_pixels * plants.work)
            for stage, share in _STAGES.items()
        },
    }


def energy(case: Case, speedup: float, plants: Plants) -> dict[str, float | None]:
    """What is behind the joules of an image; `gross_j` is the number itself."""
    seconds = true_ms(case, speedup) / 1e3
    gross = seconds * _BUSY_W * plants.energy
    return {
        "gross_j": gross,
        "net_j": gross - seconds * _IDLE_W,
        "polled_j": 1.01 * gross,
        "idle_w": _IDLE_W,
        "window_s": _WINDOW_S,
        "images": float(ceil(_WINDOW_S / seconds)),
    }


def reading(position: int, *, hot: bool, foreign: bool) -> dict[str, Any]:
    """What the driver shows beside an image, as `srbench.nvml.Monitor.state` does."""
    warmth = 55.0 + 10.0 * min(position, 20) / 20
    return {
        "sm_clock_mhz": _HOT_CLOCK_MHZ if hot else _CLOCK_MHZ,
        "power_w": _BUSY_W,
        "power_instant_w": _BUSY_W,
        "temperature_c": HOT_C if hot else warmth,
        "throttle_reasons": _THERMAL if hot else 0,
        "utilization_pct": 0,
        "memory_used_bytes": 8 * GIB,
        "compute_pids": [*_OWN_PIDS, _FOREIGN_PID] if foreign else list(_OWN_PIDS),
    }


def out_of_memory(case: Case) -> MemoryError:
    """What the device says when an image does not fit."""
    asked = 24 * GIB + 4096 * case.output_pixels
    return MemoryError(
        f"simulated device: out of memory, tried to allocate {asked} bytes for {case.name}"
    )
