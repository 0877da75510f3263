"""Timing of single operations in a worker: CUDA events, fresh values, nothing left in the cache."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from math import ceil
from typing import TYPE_CHECKING, Any

from srbench.fingerprint import cpu_threads
from srbench.outcome import one_line
from srbench.probes.clock import synchronise
from srbench.probes.stages import StageClock
from srbench.roofline.ceilings import Ceiling
from srbench.roofline.suite import Entry, Inputs, suite

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long an operation is timed.

    Attributes:
        warmup_s: Before the first repetition: clocks settle, libraries choose their kernels.
        repetition_s: About how long a repetition takes; a card under a power limit shows its
            sustained clock only after some tens of milliseconds.
        repetitions: Whose median counts.
    """

    warmup_s: float
    repetition_s: float
    repetitions: int


PACES = {
    "cuda": Pace(warmup_s=0.3, repetition_s=0.1, repetitions=7),
    "cpu": Pace(warmup_s=0.02, repetition_s=0.02, repetitions=5),
}
_CPU_CACHE_BYTES = 1 << 23
_MOST_SETS = 64


def measure_ceilings(
    device: str, entries: Sequence[Entry] | None = None, pace: Pace | None = None
) -> tuple[str, list[Ceiling]]:
    """Time every operation of the suite on `cpu` or `cuda`.

    Args:
        device: `cpu` or `cuda`.
        entries: Instead of the device's suite.
        pace: Instead of the device's own.

    Returns:
        Precision of the operands and the ceilings; what did not fit in memory says so.
    """
    import torch

    if device == "cpu":
        torch.set_num_threads(cpu_threads())
    torch.backends.cudnn.benchmark = True
    generator = torch.Generator(device).manual_seed(0)
    dtype = torch.float16 if device == "cuda" else torch.float32
    with torch.inference_mode():
        found = [
            _ceiling(entry, generator, dtype, pace or PACES[device])
            for entry in (suite(device) if entries is None else entries)
        ]
    return ("fp16" if device == "cuda" else "fp32"), found


def _ceiling(entry: Entry, generator: torch.Generator, dtype: torch.dtype, pace: Pace) -> Ceiling:
    import torch

    moved = entry.elements * dtype.itemsize
    times_ms: list[float] = []
    reason = None
    try:
        sets = _input_sets(entry, generator, dtype, moved)
        times_ms = _times_ms(entry.call, sets, generator.device.type, pace)
    except torch.OutOfMemoryError as error:
        reason = f"does not fit in memory: {one_line(str(error), 120)}"
    if generator.device.type == "cuda":
        sets = []
        torch.cuda.empty_cache()
    return Ceiling(
        name=entry.name,
        kind=entry.kind,
        shape=entry.shape,
        flops=entry.flops,
        bytes=moved,
        times_ms=times_ms,
        reason=reason,
    )


def _input_sets(
    entry: Entry, generator: torch.Generator, dtype: torch.dtype, moved: int
) -> list[Inputs]:
    """As many sets as it takes that the first has left the cache before its turn comes again.

    Values are random: a card multiplies zeros with less power and so at a higher clock.
    """
    import torch

    def draw(*shape: int) -> torch.Tensor:
        values = torch.randn(shape, generator=generator, device=generator.device, dtype=dtype)
        if len(shape) == 4 and entry.kind != "attention":
            return values.to(memory_format=torch.channels_last)
        return values

    count = min(_MOST_SETS, max(2, ceil(2 * _cache_bytes(generator.device) / moved)))
    return [entry.inputs(draw) for _ in range(count)]


def _cache_bytes(device: torch.device) -> int:
    import torch

    if device.type != "cuda":
        return _CPU_CACHE_BYTES
    return int(torch.cuda.get_device_properties(device).L2_cache_size)


def _times_ms(call: Callable[..., Any], sets: list[Inputs], device: str, pace: Pace) -> list[float]:
    """Milliseconds a call, one value a repetition."""
    turn = cycle(sets)
    start = time.perf_counter()
    done = 0
    while (spent := time.perf_counter() - start) < pace.warmup_s or done < 2:
        call(*next(turn))
        synchronise(device)
        done += 1
    calls = max(1, ceil(pace.repetition_s * done / spent))
    return [_repetition_ms(call, turn, calls, device) for _ in range(pace.repetitions)]


def _repetition_ms(call: Callable[..., Any], turn: Any, calls: int, device: str) -> float:
    synchronise(device)
    clock = StageClock(device)
    clock.enter("calls")
    for _ in range(calls):
        call(*next(turn))
    clock.exit("calls")
    synchronise(device)
    return clock.stages_ms()["calls"] / calls
