"""What a foreign engine need not measure: srbench does it from outside, around its images."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from srbench.errors import InfrastructureError
from srbench.nvml import Monitor
from srbench.outcome import Failure
from srbench.probes.energy import measure_energy
from srbench.probes.memory import bytes_of_process
from srbench.probes.session import host_peak_bytes, reset_host_peaks, session_pids
from srbench.protocol import (
    Alone,
    Estimate,
    Estimated,
    Paint,
    Painted,
    Repaint,
    Repainted,
    Solo,
    Timed,
    Upscale,
)
from srbench.scratch import keep_if, kept
from srbench.wire import Message

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

R = TypeVar("R", bound=Message)


class _BrokeError(Exception):
    """An answer in the middle of several was a failure."""

    def __init__(self, failure: Failure) -> None:
        self.failure = failure


class Watch:
    """Asks a foreign worker, and tells what it could not know or did not say.

    Attributes:
        pids: Processes of the worker's session that were seen so far.
    """

    def __init__(self, leader: int, gpu_uuid: str | None, ask: Callable[..., Any]) -> None:
        """Watch a worker.

        Args:
            leader: Its process id, also of its session.
            gpu_uuid: The card, None on CPU.
            ask: Given the kind of the answer, the request and the size that its pictures must
                have or None; returns the answer or a failure.

        Raises:
            InfrastructureError: The driver does not answer for the card.
        """
        self._leader = leader
        self._sizes: dict[tuple[int, int, int], tuple[int, int]] = {}
        self._ask = ask
        self.pids = {leader}
        try:
            self._monitor = None if gpu_uuid is None else Monitor(gpu_uuid)
        except OSError as error:
            raise InfrastructureError(f"the card cannot be watched: {error}") from error

    def ask(self, kind: type[R], request: Message) -> R | Failure:
        """Do one request."""
        try:
            if isinstance(request, Upscale):
                return self._timed(kind, request)
            if isinstance(request, Solo):
                alone: Any = self._solo(request)
                assert isinstance(alone, kind)
                return alone
            return self._must(kind, request)
        except _BrokeError as broke:
            return broke.failure

    def _must(self, kind: type[R], request: Message) -> R:
        size = self._output_size(request) if isinstance(request, Paint) else None
        reply: R | Failure = self._ask(kind, request, size)
        if isinstance(reply, Failure):
            raise _BrokeError(reply)
        return reply

    def _output_size(self, request: Paint) -> tuple[int, int]:
        """Height and width of the pictures that the engine makes of an input."""
        import numpy as np

        height, width, _ = np.load(request.image, mmap_mode="r").shape
        asked = height, width, request.scale
        if asked not in self._sizes:
            estimate = Estimate(height=height, width=width, scale=request.scale)
            told = self._must(Estimated, estimate).output_size
            plain = height * request.scale, width * request.scale
            self._sizes[asked] = (told[0], told[1]) if told else plain
        return self._sizes[asked]

    def _readings(self) -> list[dict[str, Any]]:
        """One reading of the card, none on CPU; whose processes are on it is asked then too."""
        if self._monitor is None:
            return []
        self.pids |= session_pids(self._leader)
        return [self._monitor.state()]

    def _timed(self, kind: type[R], request: Upscale) -> R:
        """Have an image timed; what it took as seen from here goes into the record beside it."""
        before = self._readings()
        start = time.perf_counter_ns()
        timed: Any = self._must(kind, request)
        answered_ms = (time.perf_counter_ns() - start) / 1e6
        readings = dict(zip(("before", "after"), before + self._readings(), strict=False))
        found: R = replace(timed, state={**timed.state, **readings, "answered_ms": answered_ms})
        return found

    def _solo(self, request: Solo) -> Alone:
        """What `srbench.workbench.Workbench` measures of a pipeline, as far as it is to be seen."""
        from srbench.fidelity.repeats import digest, paint_again

        states = self._readings()
        painted = self._first(request)
        picture = kept(painted.picture)
        again = f"{request.outputs}-again"
        repeats = None
        if request.thorough:
            repeats = paint_again(lambda: self._again(request, again, request.seed), picture)
        other = None
        if request.other_seed is not None:
            other = self._again(request, f"{request.outputs}-other-seed", request.other_seed)
        states += self._readings()
        image = Upscale(image=request.image, scale=request.scale, seed=request.seed)
        energy = None
        if request.thorough:
            energy = measure_energy(lambda: self._must(Timed, image), self._monitor)
        states += self._readings()
        return Alone(
            picture=painted.picture,
            picture_float=painted.picture_float,
            eps=painted.eps,
            memory=painted.memory,
            work={},
            energy_j=energy.gross_j if energy else None,
            energy_reason=energy.reason if energy else None,
            energy=energy.to_record() if energy else {},
            picture_sha256=digest(picture),
            distinct_pictures=repeats.distinct if repeats else None,
            repeat=keep_if(repeats.worst, request.outputs, "repeat") if repeats else None,
            other_seed=keep_if(other, request.outputs, "other-seed"),
            states=states,
        )

    def _first(self, request: Solo) -> Painted:
        """The judged picture, with the memory that its making took."""
        reset_host_peaks(session_pids(self._leader))
        before = self._monitor.processes() if self._monitor else []
        painted = self._must(Painted, _paint(Paint, request, request.outputs, request.seed))
        after = self._monitor.processes() if self._monitor else []
        self.pids |= (own := session_pids(self._leader))
        vram = sum(size for pid, size in after if pid in own and size)
        memory: dict[str, int | None] = {
            "allocator_peak_bytes": None,
            "reserved_peak_bytes": None,
            "process_vram_bytes": vram or bytes_of_process(self._leader, before, after),
            "rss_peak_bytes": host_peak_bytes(own),
        }
        told = {key: value for key, value in painted.memory.items() if value is not None}
        return replace(painted, memory={**memory, **told})

    def _again(self, request: Solo, outputs: str, seed: int) -> NDArray[np.uint8]:
        file = self._must(Repainted, _paint(Repaint, request, outputs, seed)).picture
        picture: NDArray[np.uint8] = kept(file)
        return picture


P = TypeVar("P", bound=Paint)


def _paint(kind: type[P], request: Paint, outputs: str, seed: int) -> P:
    return kind(image=request.image, scale=request.scale, seed=seed, outputs=outputs)
