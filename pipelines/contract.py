"""What every pipeline promises, and all that the harness knows of one.

This module is light on purpose: it imports torch only for type checkers, so the harness can read a
pipeline's declared facts without loading anything.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

STAGES = (
    "preprocess",
    "encode",
    "degradation",
    "prompt",
    "modulate",
    "vae_encode",
    "unet",
    "network",
    "scheduler",
    "vae_decode",
    "color_fix",
    "postprocess",
)

Observer = Callable[[str, "torch.Tensor"], None]
"""Receives named intermediates: deg_score, latent_mean, latent, eps, x0."""


class PipelineError(Exception):
    """A pipeline refuses its input, option or weights; the message is one line for the user."""


class Precision(StrEnum):
    """Arithmetic of a run: `fp16` is autocast for a baseline, fp16 weights for an optimized arm."""

    FP32 = "fp32"
    FP16 = "fp16"


class Tier(StrEnum):
    """How close a pipeline claims to stay to its baseline; the gate's thresholds follow from it."""

    EXACT = "exact"
    REDUCED = "reduced"
    APPROX = "approx"


@dataclass(frozen=True, slots=True)
class WeightsSource:
    """A folder in the published layout (`sd-turbo/`, `s3diff.pkl`, `de_net.pth`) and its identity.

    Attributes:
        path: The folder.
        kind: `folder` (the user's own), `mini` or `synthetic`.
        digest: Identity of the contents (hex), equal for equal weights on any machine.
        synthetic: True when no network in it was trained; every table then says so.
    """

    path: Path
    kind: Literal["folder", "mini", "synthetic"]
    digest: str
    synthetic: bool


@dataclass(frozen=True, slots=True, order=True)
class OperatorCount:
    """Operators of one kind and size in one stage.

    Attributes:
        stage: Name of the stage, `other` outside of all.
        kind: `conv`, `linear`, `attention`, `norm` or `other`.
        flops: Of one call.
        ideal_bytes: Of one call: matrix products, convolutions and attention read each input and
            write each output once; everything else could be fused into them and moves nothing.
        eager_bytes: Of one call as launched: its inputs read, its outputs written, a norm's input
            read twice.
        weight_bytes: The part of `eager_bytes` read from what was there before the image.
        count: Calls.
    """

    stage: str
    kind: str
    flops: int
    ideal_bytes: int
    eager_bytes: int
    weight_bytes: int
    count: int


@dataclass(frozen=True, slots=True)
class WorkCounts:
    """Exact, machine-independent work of one image.

    Attributes:
        flops: Floating-point operations (2 per multiply-add) by stage.
        launches: Operator launches (dispatched aten operators that compute or copy).
        calls: Network forwards: `unet` (samples, tiles x prompts), `text_encoder`, `vae_encoder`
            and `vae_decoder` (tiles).
        host_device_bytes: Bytes parked on the host or fetched back inside the image, input and
            output not counted.
        peak_tensor_bytes: Largest sum of live tensor storage during the image, weights excluded.
        operators: What was launched, by size, for a limit an operator; empty where a pipeline does
            not tell. Bytes are those of the counted dtypes (float32 on the meta device).
    """

    flops: dict[str, int] = field(default_factory=dict)
    launches: int = 0
    calls: dict[str, int] = field(default_factory=dict)
    host_device_bytes: int = 0
    peak_tensor_bytes: int = 0
    operators: tuple[OperatorCount, ...] = ()

    @property
    def total_flops(self) -> int:
        """Sum over stages."""
        return sum(self.flops.values())


@dataclass(frozen=True, slots=True)
class Rung:
    """One step of a pipeline's ladder: what is switched on beside everything before it.

    An options class that has a ladder lists its rungs, first to last, as `RUNGS`; the first one
    switches everything off. All of them together are the defaults, but for what comes `on_top`.
    Such a class may also have `predicted_seconds(card, precision)`: step -> case -> seconds, `P0`
    being the baseline.

    Attributes:
        name: Unique, `P7` or `P9-norm`; the part before the dash is the step of the published plan.
        title: What it does, for tables.
        options: Option name -> text, as `--set` takes it.
        on_top: Not part of the defaults.
    """

    name: str
    title: str
    options: dict[str, str]
    on_top: bool = False

    @property
    def step(self) -> str:
        """Step of the plan it belongs to."""
        return self.name.partition("-")[0]


class Pipeline(Protocol):
    """A super-resolution system under test.

    Constructed with an instance of its own frozen `Options` dataclass, then `load`, optionally
    `prepare` for each size, then `upscale` any number of times.

    One whose pictures are not `scale` times as large as the input also has
    `output_size(height, width, scale) -> (height, width)`, which needs no weights. One that brings
    weights of its own has `own_weights()`, their digest (hex), or "" where they are not there.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    Options: ClassVar[type]
    precisions: ClassVar[tuple[Precision, ...]]
    tiers: ClassVar[dict[Precision, Tier]]

    def __init__(self, options: Any) -> None: ...

    def load(self, weights: WeightsSource, device: torch.device, precision: Precision) -> None:
        """Read the weights onto the device. Raises PipelineError naming the file that is wrong."""

    def prepare(self, height: int, width: int, scale: int) -> None:
        """Do once what a size needs (compile, capture, autotune); timed apart from `upscale`."""

    def decisions(self, height: int, width: int, scale: int) -> dict[str, str]:
        """What was chosen for that LR size on this device, by subject; for people to read."""

    def upscale(self, image: NDArray[np.uint8], scale: int, *, seed: int) -> NDArray[np.uint8]:
        """Upscale one image.

        Args:
            image: [H, W, 3] RGB, uint8, host memory, sides of at least 16.
            scale: Integer factor.
            seed: Seed of the posterior noise.

        Returns:
            [scale H, scale W, 3] RGB, uint8, host memory; the call is synchronous.
        """

    def upscale_float(
        self,
        image: NDArray[np.uint8],
        scale: int,
        *,
        seed: int,
        observe: Observer | None = None,
    ) -> NDArray[np.float32]:
        """The same before the last 8-bit rounding: [scale H, scale W, 3], float32 in [0, 1].

        `observe` is called with named intermediates on their way.
        """

    def work(self, height: int, width: int, scale: int) -> WorkCounts:
        """Count one image of that LR size on the meta device.

        Before `load` the published full-size architecture is counted, after it the loaded one.
        """

    def memory_estimate(self, height: int, width: int, scale: int) -> int:
        """Bytes of device memory that one image of that LR size needs beside the weights."""


class StageListener(Protocol):
    """Told where an image is; implemented by the stage probe and by the work counter."""

    def enter(self, name: str) -> None: ...

    def exit(self, name: str) -> None: ...


_listener: StageListener | None = None


@contextmanager
def listening(listener: StageListener) -> Iterator[None]:
    """Deliver stage marks to `listener` inside the block. Blocks do not nest."""
    global _listener
    _listener = listener
    try:
        yield
    finally:
        _listener = None


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Mark a stage of `STAGES`; free when nobody listens."""
    if _listener is None:
        yield
        return
    _listener.enter(name)
    try:
        yield
    finally:
        if _listener is not None:
            _listener.exit(name)


def posterior_noise(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Standard normal float32 noise of `shape` on the CPU.

    Drawn from a generator of its own, equal to `torch.randn(shape)` after
    `torch.manual_seed(seed)`, so every pipeline and device gets the same numbers.
    """
    import torch

    generator = torch.Generator(device="cpu").manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float32)
