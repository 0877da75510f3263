"""What the page computes: a picture and choices go in, two pictures and their times come out."""

from __future__ import annotations

import gc
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.contract import Precision, WeightsSource
from srbench.cpu_kernels import prefer_avx2
from srbench.demo.choices import fit_options
from srbench.errors import InfrastructureError, UsageError
from srbench.fidelity.floats import psnr_float
from srbench.outcome import Outcome, classify
from srbench.painting import free_memory
from srbench.probes.clock import timed
from srbench.registry import load_pipeline
from srbench.upscaling import MIN_SIDE, check_scale

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pipelines.contract import Pipeline

KEPT = 2
"""Pipelines that stay loaded: the two that are compared."""

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Question:
    """What the user chose beside the picture.

    Attributes:
        pipelines: Names of A and B.
        scale: Whole factor.
        seed: Of the noise, the same for both.
        values: Option -> text, keys of `srbench.demo.choices.OPTION_WORDS`.
    """

    pipelines: tuple[str, str]
    scale: int
    seed: int
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Painted:
    """What one pipeline made of the picture.

    Attributes:
        pipeline: Its name.
        pixels: [H, W, 3] RGB, uint8.
        latency_ms: Picture in host memory to picture in host memory, device synchronised.
        stages_ms: Stage -> time; overlapping stages may add up to more than `latency_ms`.
        load_ms: Time to read the weights; None where the pipeline was still loaded.
        prepare_ms: Time to prepare the size.
        is_first: The first picture of this size since loading, which warms up on the way.
        remarks: What was done otherwise than chosen, one sentence each.
    """

    pipeline: str
    pixels: NDArray[np.uint8]
    latency_ms: float
    stages_ms: dict[str, float]
    load_ms: float | None
    prepare_ms: float
    is_first: bool
    remarks: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Difference:
    """How far two 8-bit pictures are apart.

    Attributes:
        psnr_db: RGB, peak 255; infinite for equal pictures.
        largest: Largest difference of a value, 0 to 255.
        equal_share: Share of the values that are equal, 0 to 1.
    """

    psnr_db: float
    largest: int
    equal_share: float


@dataclass(frozen=True, slots=True)
class Result:
    """Both pictures.

    Attributes:
        a: Of the first pipeline.
        b: Of the second.
        difference: None where their sizes differ.
    """

    a: Painted
    b: Painted
    difference: Difference | None


@dataclass(slots=True)
class _Loaded:
    pipeline: Pipeline
    options: Any
    sizes: set[tuple[int, int, int]]


def compare(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> Difference | None:
    """How far two pictures [H, W, 3] are apart; None where their sizes differ."""
    if a.shape != b.shape:
        return None
    gap = np.abs(a.astype(np.int16) - b)
    equal = not gap.any()
    floats = (np.divide(pixels, 255, dtype=np.float32) for pixels in (a, b))
    return Difference(
        psnr_db=math.inf if equal else psnr_float(*floats),
        largest=int(gap.max()),
        equal_share=float((gap == 0).mean()),
    )


class Session:
    """Pipelines of one system on one device, the last two of them loaded; for one job at a time."""

    def __init__(self, weights: WeightsSource, device: str, precision: Precision) -> None:
        """Load nothing yet.

        Args:
            weights: That all the pipelines take.
            device: `cpu` or `cuda`.
            precision: Arithmetic.
        """
        self.weights = weights
        self.device = device
        self.precision = precision
        self._kept: OrderedDict[str, _Loaded] = OrderedDict()
        if device == "cpu":
            prefer_avx2()

    def run(self, image: NDArray[np.uint8], question: Question, note: Note) -> Result:
        """Upscale one picture with both pipelines.

        Args:
            image: [H, W, 3] RGB, uint8.
            question: What to do with it.
            note: Told what is going on, in words.

        Raises:
            UsageError: A picture, scale, option or precision that a pipeline does not take.
            PipelineError: The same, found by the pipeline; or weights that cannot be used.
            InfrastructureError: Not enough memory; everything is unloaded then.
        """
        check_scale(question.scale)
        height, width = image.shape[:2]
        if min(height, width) < MIN_SIDE:
            raise UsageError(
                f"the picture is {width}x{height} pixels; sides must be at least {MIN_SIDE} pixels"
            )
        # Both are checked before either computes.
        fitted = [fit_options(name, question.values) for name in question.pipelines]
        try:
            a, b = (
                self._paint(name, options, remarks, image, question, note)
                for name, (options, remarks) in zip(question.pipelines, fitted, strict=True)
            )
        except (MemoryError, RuntimeError) as error:
            failure = classify(error)
            if failure.outcome is not Outcome.OUT_OF_MEMORY:
                raise
            error.__traceback__ = None  # its frames would keep the image's tensors alive
            self._forget(0)
            raise InfrastructureError(
                f"out of memory on {self.device} ({failure.reason[:120]}); "
                "take a smaller picture or scale"
            ) from None
        return Result(a, b, compare(a.pixels, b.pixels))

    def _paint(
        self,
        name: str,
        options: Any,
        remarks: tuple[str, ...],
        image: NDArray[np.uint8],
        question: Question,
        note: Note,
    ) -> Painted:
        loaded, load_ms = self._load(name, options, note)
        height, width = image.shape[:2]
        size = (height, width, question.scale)
        self._check_memory(loaded.pipeline, size)
        note(f"{name}: {width}x{height}, x{question.scale}")
        start = time.perf_counter()
        loaded.pipeline.prepare(*size)
        prepare_ms = _since(start)
        timing = timed(
            lambda: loaded.pipeline.upscale(image, question.scale, seed=question.seed), self.device
        )
        is_first = size not in loaded.sizes
        loaded.sizes.add(size)
        return Painted(
            pipeline=name,
            pixels=timing.result,
            latency_ms=timing.latency_ms,
            stages_ms=timing.stages_ms,
            load_ms=load_ms,
            prepare_ms=prepare_ms,
            is_first=is_first,
            remarks=remarks,
        )

    def _load(self, name: str, options: Any, note: Note) -> tuple[_Loaded, float | None]:
        """The pipeline with these options, and how many ms it took to load if it was not."""
        kept = self._kept.get(name)
        if kept is not None and _goes_on(kept, options):
            self._kept.move_to_end(name)
            return kept, None
        note(f"{name}: loading")
        start = time.perf_counter()
        import torch

        kind = load_pipeline(name)
        if self.precision not in kind.precisions:
            known = ", ".join(kind.precisions)
            raise UsageError(f"{name} computes in {known}, not in {self.precision}")
        self._kept.pop(name, None)
        self._forget(KEPT - 1)
        pipeline = kind(options)
        pipeline.load(self.weights, torch.device(self.device), self.precision)
        loaded = self._kept[name] = _Loaded(pipeline, options, set())
        return loaded, _since(start)

    def _forget(self, keep: int) -> None:
        """Unload all but the pipelines used last, and give their memory back."""
        while len(self._kept) > keep:
            self._kept.popitem(last=False)
        gc.collect()
        if self.device == "cuda":
            import torch

            torch.cuda.empty_cache()

    def _check_memory(self, pipeline: Pipeline, size: tuple[int, int, int]) -> None:
        import torch

        needed, free = pipeline.memory_estimate(*size), free_memory(torch.device(self.device))
        if needed > free:
            height, width, scale = size
            raise InfrastructureError(
                f"upscaling {width}x{height} by {scale} needs about {needed / 2**30:.1f} GiB "
                f"beside the weights and {free / 2**30:.1f} GiB are free on {self.device}; "
                "take a smaller picture or scale"
            )


def _goes_on(loaded: _Loaded, options: Any) -> bool:
    """Whether a loaded pipeline computes with these options, or can from now on."""
    if loaded.options == options:
        return True
    retune: Callable[[Any], bool] = getattr(loaded.pipeline, "retune", lambda _: False)
    if not retune(options):
        return False
    loaded.options = options
    loaded.sizes.clear()
    return True


def _since(start: float) -> float:
    return (time.perf_counter() - start) * 1e3
