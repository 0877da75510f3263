"""A pipeline that paints picture after picture, and the memory that each of them needs."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from srbench.cpu_kernels import prefer_avx2
from srbench.errors import InfrastructureError, UsageError
from srbench.outcome import Outcome, classify
from srbench.registry import decisions_of, load_pipeline, version_of

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from pipelines.contract import Pipeline, WeightsSource
    from srbench.upscaling import Request


_ANYWHERE = ("arithmetic", "calibration")
"""What quantized pipelines decide, also without a card."""


class PictureTooLargeError(InfrastructureError):
    """Not enough memory for one picture; a smaller one may fit."""


class Painter:
    """A pipeline whose weights are read once, when the first picture needs them."""

    def __init__(
        self, request: Request, weights: WeightsSource, note: Callable[[str], None]
    ) -> None:
        """Make the pipeline without its weights; `note` is told what it chooses.

        Raises:
            UsageError: No such pipeline, or it does not compute in this precision.
        """
        if request.device == "cpu":
            prefer_avx2()
        import torch

        kind = load_pipeline(request.pipeline)
        if request.precision not in kind.precisions:
            known = ", ".join(kind.precisions)
            raise UsageError(
                f"--precision {request.precision}: {request.pipeline} computes in {known}"
            )
        self._request = request
        self._weights = weights
        self._note = note
        self._device = torch.device(request.device)
        self._pipeline: Pipeline = kind(request.options)
        self.version = version_of(self._pipeline)
        self._loaded = False
        self._choices: dict[str, str] = {}

    def load(self) -> None:
        """Read the weights, if that has not been done.

        Raises:
            PipelineError: A file of them is wrong.
            InfrastructureError: They do not fit into memory.
        """
        if self._loaded:
            return
        with _memory_named(self._request, InfrastructureError):
            self._pipeline.load(self._weights, self._device, self._request.precision)
        self._loaded = True

    def paint(
        self, source: Path, image: NDArray[np.uint8], seeds: Sequence[int]
    ) -> Iterator[NDArray[np.uint8]]:
        """Upscale a picture, once a seed; call `load` before.

        Args:
            source: Where it is from, for messages.
            image: [H, W, 3] RGB.
            seeds: Of the noise.

        Yields:
            [scale H, scale W, 3] RGB, as they come.

        Raises:
            PictureTooLargeError: Not enough memory.
            PipelineError: The pipeline does not take this size or scale.
        """
        height, width = image.shape[:2]
        scale = self._request.scale
        with _memory_named(self._request, PictureTooLargeError):
            _check_memory(self._pipeline, source, height, width, scale, self._device)
            self._pipeline.prepare(height, width, scale)
            self._tell(decisions_of(self._pipeline, height, width, scale))
            yield from _pictures(self._pipeline, image, scale, seeds)

    def recover(self) -> None:
        """Give back what a picture that did not fit has left in memory."""
        gc.collect()
        if self._device.type == "cuda":
            import torch

            torch.cuda.empty_cache()

    def _tell(self, choices: dict[str, str]) -> None:
        if self._device.type != "cuda":  # elsewhere there is nothing else to choose
            choices = {what: choices[what] for what in _ANYWHERE if what in choices}
        if choices != self._choices:
            self._note("  " + "; ".join(f"{what}: {words}" for what, words in choices.items()))
        self._choices = choices


@contextmanager
def _memory_named(request: Request, kind: type[InfrastructureError]) -> Iterator[None]:
    """Turn every way of saying "out of memory" into one error."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if classify(error).outcome is not Outcome.OUT_OF_MEMORY:
            raise
        raise kind(
            f"{request.pipeline}: out of memory on {request.device} "
            f"({' '.join(str(error).split())[:120]}); take a smaller image"
        ) from error


def _pictures(
    pipeline: Pipeline, image: NDArray[np.uint8], scale: int, seeds: Sequence[int]
) -> Iterator[NDArray[np.uint8]]:
    """One picture a seed; together where the pipeline shares work between samples of one image."""
    together = getattr(pipeline, "upscale_samples", None)
    if together is not None and len(seeds) > 1:
        yield from together(image, scale, seeds=list(seeds))
        return
    for seed in seeds:
        yield pipeline.upscale(image, scale, seed=seed)


def _check_memory(
    pipeline: Pipeline, path: Path, height: int, width: int, scale: int, device: torch.device
) -> None:
    needed, free = pipeline.memory_estimate(height, width, scale), free_memory(device)
    if needed > free:
        raise PictureTooLargeError(
            f"{path}: upscaling {width}x{height} by {scale} needs about {needed / 2**30:.1f} GiB "
            f"beside the weights and {free / 2**30:.1f} GiB are free on {device}; "
            "take a smaller image or scale"
        )


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device."""
    if device.type == "cuda":
        import torch

        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + kept
    available = _fields("/proc/meminfo")["MemAvailable:"] * 1024
    group = Path("/sys/fs/cgroup")
    try:
        limit = int((group / "memory.max").read_text(encoding="ascii"))
        used = int((group / "memory.current").read_text(encoding="ascii"))
        cached = _fields(f"{group}/memory.stat")
    except (OSError, ValueError):  # no such group, or its limit is "max"
        return available
    # Files that were read or written count as used until something else needs their room.
    used -= cached.get("active_file", 0) + cached.get("inactive_file", 0)
    return min(available, max(limit - used, 0))


def _fields(path: str) -> dict[str, int]:
    """The kernel's lines of a name and a number, units left out."""
    lines = Path(path).read_text(encoding="ascii").splitlines()
    return {line.split()[0]: int(line.split()[1]) for line in lines}
