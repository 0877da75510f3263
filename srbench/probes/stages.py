"""Time by stage: CUDA events on a GPU, where the host runs ahead; wall clock on CPU."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any


def cuda_mark() -> Any:
    """A timing event recorded on the current CUDA stream."""
    import torch

    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


class StageClock:
    """A `pipelines.contract.StageListener` that adds up the time of each stage."""

    def __init__(self, device: str) -> None:
        """Listen for one image on `cpu` or `cuda`."""
        self._cuda = device == "cuda"
        self._open: dict[str, Any] = {}
        self._spans: list[tuple[str, Any, Any]] = []

    def enter(self, name: str) -> None:
        """A stage begins."""
        self._open[name] = self._mark()

    def exit(self, name: str) -> None:
        """A stage ends."""
        self._spans.append((name, self._open.pop(name), self._mark()))

    def _mark(self) -> Any:
        return cuda_mark() if self._cuda else time.perf_counter_ns()

    def stages_ms(self) -> dict[str, float]:
        """Stage -> ms, in order of first appearance; call it once the device has finished."""
        totals: dict[str, float] = defaultdict(float)
        for name, start, end in self._spans:
            totals[name] += start.elapsed_time(end) if self._cuda else (end - start) / 1e6
        return dict(totals)
