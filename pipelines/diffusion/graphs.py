"""A function of one tensor, replayed from CUDA graphs for the shapes captured beforehand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from pipelines.work import is_counting

KEPT = 8
"""Shapes kept; the one captured first goes. All graphs share one memory pool."""
_WARMUPS = 3


@dataclass(frozen=True, slots=True)
class _Captured:
    graph: torch.cuda.CUDAGraph
    source: torch.Tensor
    result: torch.Tensor

    def replay(self, x: torch.Tensor) -> torch.Tensor:
        self.source.copy_(x)
        self.graph.replay()
        return self.result


class Replayed:
    """Calls `function`, or replays what it did where a graph of that shape was captured.

    A shape never seen runs at once, eagerly. A replayed result is overwritten by the next replay.

    Args:
        function: Tensor -> tensor on the same device. Whatever else it reads must stay where it is:
            weights and other inputs are to be overwritten in place.
    """

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        self._function = function
        self._captured: dict[tuple[torch.Size, torch.dtype], _Captured] = {}
        self._pool: Any = None
        self.pool_bytes = 0
        """Device memory that the graphs keep to themselves."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        captured = self._captured.get((x.shape, x.dtype))
        if captured is None or is_counting():
            return self._function(x)
        return captured.replay(x)

    def has(self, x: torch.Tensor) -> bool:
        """Whether an input like `x` would be replayed."""
        return (x.shape, x.dtype) in self._captured

    def capture(self, x: torch.Tensor) -> str | None:
        """Capture the function for inputs like `x`, whose values do not matter.

        Returns:
            None, or in one line why it could not be captured; such inputs then go on eagerly.
        """
        if self.has(x):
            return None
        while len(self._captured) >= KEPT:
            del self._captured[next(iter(self._captured))]
        stream = torch.cuda.current_stream(x.device)
        try:
            self._captured[x.shape, x.dtype] = self._record(x.clone())
        except RuntimeError as error:  # out of memory, or an operator that cannot be captured
            # A capture that broke may leave its own stream current and its pool half used.
            torch.cuda.set_stream(stream)
            if not self._captured:
                self._pool = None
            torch.cuda.synchronize(x.device)
            torch.cuda.empty_cache()
            return str(error).split("\n", 1)[0][:120]
        return None

    def _record(self, source: torch.Tensor) -> _Captured:
        stream = torch.cuda.Stream(source.device)
        stream.wait_stream(torch.cuda.current_stream(source.device))
        with torch.cuda.stream(stream):
            for _ in range(_WARMUPS):
                self._function(source)
        torch.cuda.current_stream(source.device).wait_stream(stream)
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize(source.device)
        torch.cuda.empty_cache()
        before = torch.cuda.memory_reserved(source.device)
        with torch.cuda.graph(graph, pool=self._pool, stream=stream):
            result = self._function(source)
        self.pool_bytes += max(0, torch.cuda.memory_reserved(source.device) - before)
        return _Captured(graph, source, result)
