"""What a training run of S3Diff is asked for: recipes in TOML with strict keys."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from pipelines.contract import PipelineError
from pipelines.degradations import Settings as DegradationSettings
from pipelines.s3diff.options import LORA_ALPHA, SIZE_MULTIPLE
from pipelines.s3diff.train.discriminators import DiscriminatorSettings
from pipelines.s3diff.train.losses import LossWeights
from pipelines.tables import Table, merged, overridden, parse_assignments, read_toml

RECIPES = ("published", "mini")


class Precision(StrEnum):
    """What the networks compute in; trained weights, their gradients and Adam are float32.

    `tf32` is float32 with TF32 products on CUDA, as published; elsewhere it is float32.
    """

    FP32 = "fp32"
    TF32 = "tf32"
    FP16 = "fp16"
    BF16 = "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSettings:
    """Which crops of which photographs are trained on.

    Attributes:
        crop: Side of a crop in pixels; a multiple of 64 and of `degradation.scale`.
        min_area_px: Photographs of fewer pixels are replaced by others.
        min_bytes: So are those whose files are smaller.
        limits: Photographs taken of each `--data` folder in the order of their names, 0 for all;
            all of folders beyond the list.
    """

    crop: int = 512
    min_area_px: int = 384**2
    min_bytes: int = 100 * 1024
    limits: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        _require(self, "min_area_px", "min_bytes", least=0)
        if self.crop < SIZE_MULTIPLE or self.crop % SIZE_MULTIPLE:
            raise PipelineError(f"crop {self.crop}: must be a multiple of {SIZE_MULTIPLE}")
        if any(limit < 0 for limit in self.limits):
            raise PipelineError(f"limits {list(self.limits)}: must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSettings:
    """What is drawn for each crop beside its degradation.

    Attributes:
        negative: Probability of the negative prompt, with the network's input as the target
            ("online negative samples" of the paper).
        keep_hr: Probability that the network's input is the crop itself; the degradation network
            still sees the degraded crop.
    """

    negative: float = 0.05
    keep_hr: float = 0.01

    def __post_init__(self) -> None:
        for name in ("negative", "keep_hr"):
            if not 0 <= getattr(self, name) <= 1:
                raise PipelineError(f"{name} {getattr(self, name)}: must be a probability")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraSettings:
    """Adapters, where they are begun; those of a checkpoint must agree.

    Attributes:
        rank_unet: Of the UNet's.
        rank_vae: Of the VAE encoder's.
        alpha: Both are scaled by alpha / rank. The published format does not store it and every
            reader takes 8.
    """

    rank_unet: int = 32
    rank_vae: int = 16
    alpha: float = LORA_ALPHA

    def __post_init__(self) -> None:
        _require(self, "rank_unet", "rank_vae", least=1)
        if self.alpha != LORA_ALPHA:
            raise PipelineError(
                f"alpha {self.alpha}: the format of S3Diff stores none and every reader takes "
                f"{LORA_ALPHA:g}; train with another learning rate instead"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdamSettings:
    """AdamW at a constant learning rate.

    Attributes:
        lr: Learning rate.
        beta1: Decay of the mean of gradients.
        beta2: Decay of the mean of their squares.
        weight_decay: Decoupled, times the learning rate.
        eps: Added to the root of the squares.
        clip: Largest norm of all gradients together.
    """

    lr: float = 2e-5
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 1e-2
    eps: float = 1e-8
    clip: float = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "eps", "clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise PipelineError(f"{name} {getattr(self, name)}: must be positive")
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise PipelineError(f"{name} {getattr(self, name)}: must be in [0, 1)")
        if not 0 <= self.weight_decay < math.inf:
            raise PipelineError(f"weight_decay {self.weight_decay}: must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerSettings:
    """One AdamW for each of the two networks."""

    generator: AdamSettings = field(default_factory=AdamSettings)
    discriminator: AdamSettings = field(default_factory=AdamSettings)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSettings:
    """How long, how much at a time, and how often something is kept.

    Attributes:
        steps: Updates.
        batch: Crops an update, over all processes and accumulated parts.
        accumulate: Parts that a process computes its crops of an update in.
        precision: Of the networks.
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping
            them.
        seed: Of adapters, crops, degradations and noise.
        log_every: Updates from line to line of progress.
        look_every: Updates from validation to validation; 0 for never.
        save_every: Updates from resumable state to state.
        checkpoint_every: Updates from `s3diff.pkl` to `s3diff.pkl`; 0 for the last one only.
    """

    steps: int = 30_000
    batch: int = 64
    accumulate: int = 4
    precision: Precision = Precision.TF32
    gradient_checkpointing: bool = False
    seed: int = 0
    log_every: int = 10
    look_every: int = 100
    save_every: int = 500
    checkpoint_every: int = 500

    def __post_init__(self) -> None:
        _require(self, "steps", "batch", "accumulate", "log_every", "save_every", least=1)
        _require(self, "look_every", "checkpoint_every", "seed", least=0)
        if self.seed >= 2**63:
            raise PipelineError(f"seed {self.seed}: must be less than 2^63")


_HARMLESS = {
    "run.steps",
    "run.gradient_checkpointing",
    "run.log_every",
    "run.look_every",
    "run.save_every",
    "run.checkpoint_every",
}
"""Settings that leave the numbers of an update alone: nothing is spread over the steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that decides the numbers of a run, beside its photographs and weights.

    The defaults are the published recipe (spec section 6).
    """

    data: DataSettings = field(default_factory=DataSettings)
    degradation: DegradationSettings = field(default_factory=DegradationSettings)
    samples: SampleSettings = field(default_factory=SampleSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    loss: LossWeights = field(default_factory=LossWeights)
    discriminator: DiscriminatorSettings = field(default_factory=DiscriminatorSettings)
    optimizer: OptimizerSettings = field(default_factory=OptimizerSettings)
    run: RunSettings = field(default_factory=RunSettings)

    def __post_init__(self) -> None:
        if self.data.crop % self.degradation.scale:
            raise PipelineError(
                f"data.crop {self.data.crop}: must be a multiple of degradation.scale "
                f"{self.degradation.scale}"
            )

    def part(self, processes: int) -> int:
        """Crops that a process computes at a time.

        Raises:
            PipelineError: The batch cannot be divided so.
        """
        parts = processes * self.run.accumulate
        if self.run.batch % parts:
            raise PipelineError(
                f"run.batch {self.run.batch}: cannot be divided among {processes} processes with "
                f"run.accumulate {self.run.accumulate}; give a multiple of {parts}"
            )
        return self.run.batch // parts

    def identity(self) -> dict[str, Any]:
        """Path -> plain value of what a continued run must share."""
        flat = _flat(asdict(self), "")
        return {name: value for name, value in flat.items() if name not in _HARMLESS}


def read_settings(recipe: str, assignments: list[str], steps: int | None = None) -> Settings:
    """The settings of a recipe with what was chosen instead.

    Args:
        recipe: One of `RECIPES`, or a TOML file.
        assignments: `section.key=value`, as `--set` takes them.
        steps: Updates, instead of `run.steps`.

    Raises:
        PipelineError: Names the file or the option, the key, and what is wrong with it.
    """
    chosen = parse_assignments(assignments)
    if steps is not None:
        chosen = merged(chosen, {"run": {"steps": steps}})
    table = merged(_recipe(recipe), chosen)
    try:
        return overridden(Settings(), table)
    except PipelineError as error:
        source = f"--recipe {recipe}" + (" with --set" if assignments else "")
        raise PipelineError(f"{source}: {error}") from error


def _recipe(recipe: str) -> Table:
    if recipe in RECIPES:
        with as_file(files(__package__) / "recipes" / f"{recipe}.toml") as path:
            return read_toml(path)
    path = Path(recipe).expanduser()
    if path.suffix != ".toml" and not path.exists():
        raise PipelineError(f"--recipe {recipe}: expected {' or '.join(RECIPES)}, or a TOML file")
    return read_toml(path)


def _flat(table: dict[str, Any], prefix: str) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = _plain(value)
    return flat


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value if isinstance(value, bool | int | float) else str(value)


def _require(settings: object, *names: str, least: int) -> None:
    for name in names:
        if getattr(settings, name) < least:
            what = "positive" if least else "not negative"
            raise PipelineError(f"{name} {getattr(settings, name)}: must be {what}")
