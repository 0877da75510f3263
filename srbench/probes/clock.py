"""The timed span: wall clock around a device synchronise, CUDA events inside it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from pipelines.contract import listening
from srbench.probes.stages import StageClock, cuda_mark

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timing(Generic[T]):
    """One timed call.

    Attributes:
        result: What the call returned.
        latency_ms: Wall time, device synchronised before and after.
        gpu_ms: Time between CUDA events around the call, None on CPU.
        stages_ms: Stage -> time.
    """

    result: T
    latency_ms: float
    gpu_ms: float | None
    stages_ms: dict[str, float]


def synchronise(device: str) -> None:
    """Wait for everything queued on the device."""
    if device == "cuda":
        import torch

        torch.cuda.synchronize()


def timed(call: Callable[[], T], device: str) -> Timing[T]:
    """Time one call on `cpu` or `cuda`."""
    stages = StageClock(device)
    around: list[Any] = []
    with listening(stages):
        synchronise(device)
        start = time.perf_counter_ns()
        if device == "cuda":
            around.append(cuda_mark())
        result = call()
        if device == "cuda":
            around.append(cuda_mark())
        synchronise(device)
        latency_ns = time.perf_counter_ns() - start
    return Timing(
        result=result,
        latency_ms=latency_ns / 1e6,
        gpu_ms=around[0].elapsed_time(around[1]) if around else None,
        stages_ms=stages.stages_ms(),
    )
