"""What a training run is asked for; torch-free."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from enum import StrEnum
from typing import Any, get_type_hints

from pipelines.contract import PipelineError
from pipelines.srdiff.config import CONFIGS, Config


class Stage(StrEnum):
    """Which network is trained."""

    RRDB = "rrdb"
    DIFFUSION = "diffusion"


class Loss(StrEnum):
    """Distance between the noise and its prediction, as the authors offer it."""

    L1 = "l1"
    L2 = "l2"
    SSIM = "ssim"


class Init(StrEnum):
    """Where the encoder of stage 1 begins."""

    PYTORCH = "pytorch"
    NEAREST = "nearest"


class Decay(StrEnum):
    """How the learning rate falls."""

    HALVE = "halve"
    COSINE = "cosine"


class Precision(StrEnum):
    """What the networks compute in; weights, noise and loss are float32."""

    FP32 = "fp32"
    FP16 = "fp16"
    BF16 = "bf16"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that decides the numbers of a run, beside its data.

    Attributes:
        stage: Which network is trained.
        config: Name of its architecture.
        steps: Updates.
        batch: Patches an update, over all processes and accumulated parts.
        patch: Side of an HR patch.
        lr: Adam's learning rate at its highest.
        decay: `halve`: every `lr_halve_every` updates. `cosine`: to 0 at the last one.
        lr_halve_every: Updates; nothing to `cosine`.
        warmup: Updates in which the learning rate rises from 0; none in the published runs.
        clip: Largest norm of the gradients; 0 for no clipping, as in the published runs.
        ema: Decay of the averaged weights, 0 for none, as in the published runs.
        precision: Of the networks.
        accumulate: Parts that an update is computed in.
        loss: Of the noise; stage 1 knows L1 only.
        consistency: Weight of a second loss of stage 2: the distance of the noises, both averaged
            over what is a pixel in LR, where the result must agree with it; none in the published
            runs, which learn this in hundreds of thousands of updates.
        train_rrdb: Stage 2 trains the encoder too, with an L1 loss of its picture added.
        init: Of stage 1's encoder. `nearest`: three of its channels carry the LR picture through,
            so that it starts as an upsampling, for which the published start takes a thousand
            updates.
        augment: Flips and transposes; off in the published runs.
        divisor: Of the upsampled LR; 256 in the published runs.
        seed: Of initial weights, patches, timesteps and noise.
    """

    stage: Stage
    config: str
    steps: int
    batch: int
    patch: int
    lr: float
    decay: Decay = Decay.HALVE
    lr_halve_every: int = 200_000
    warmup: int = 0
    clip: float = 10.0
    ema: float = 0.0
    precision: Precision = Precision.FP32
    accumulate: int = 1
    loss: Loss = Loss.L1
    consistency: float = 0.0
    train_rrdb: bool = False
    init: Init = Init.PYTORCH
    augment: bool = False
    divisor: int = 256
    seed: int = 1234

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "patch", "accumulate", "lr_halve_every", "divisor"):
            if getattr(self, name) < 1:
                raise PipelineError(f"{option(name)} {getattr(self, name)}: must be positive")
        for name in ("warmup", "clip", "consistency", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise PipelineError(f"{option(name)} {getattr(self, name)}: must not be negative")
        if not 0 < self.lr < math.inf:
            raise PipelineError(f"--lr {self.lr}: must be positive")
        if not 0 <= self.ema < 1:
            raise PipelineError(f"--ema {self.ema}: must be at least 0 and less than 1")
        if self.divisor not in (255, 256):
            raise PipelineError(f"--divisor {self.divisor}: expected 255 or 256")
        if self.config not in CONFIGS:
            raise PipelineError(f"--config {self.config}: expected one of {', '.join(CONFIGS)}")

    @property
    def architecture(self) -> Config:
        """Of the networks."""
        return CONFIGS[self.config]

    def lr_at(self, step: int) -> float:
        """Learning rate of update `step`, from 0."""
        rising = min(1.0, (step + 1) / (self.warmup + 1))
        if self.decay is Decay.COSINE:
            return self.lr * rising * (1 + math.cos(math.pi * step / self.steps)) / 2
        return float(self.lr * rising * 0.5 ** (step // self.lr_halve_every))

    def part(self, processes: int) -> int:
        """Patches that a process computes at a time.

        Raises:
            PipelineError: The batch cannot be divided so.
        """
        parts = processes * self.accumulate
        if self.batch % parts:
            raise PipelineError(
                f"--batch {self.batch}: cannot be divided among {processes} processes with "
                f"--accumulate {self.accumulate}; give a multiple of {parts}"
            )
        return self.batch // parts

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        return {k: str(v) if isinstance(v, StrEnum) else v for k, v in values.items()}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> Settings:
        """Inverse of `to_json`; a setting that an earlier version did not know has its default.

        Raises:
            TypeError: A setting is missing or unknown.
            ValueError: A value is none of the allowed ones.
        """
        types = get_type_hints(cls)
        known = {f.name: types[f.name] for f in fields(cls) if f.name in content}
        return cls(**content | {name: kind(content[name]) for name, kind in known.items()})

    def differences(self, other: Settings) -> list[str]:
        """Settings in which `other` would give other numbers, as `--lr 0.0002, now 0.001`.

        More steps only continue a run, unless the learning rate is spread over them.
        """
        ignored = {"steps"} if self.decay is other.decay is Decay.HALVE else set()
        return [
            f"{option(name)} {old}, now {new}"
            for (name, old), new in zip(
                self.to_json().items(), other.to_json().values(), strict=True
            )
            if old != new and name not in ignored
        ]


def option(name: str) -> str:
    """A setting's name on the command line."""
    return "the stage" if name == "stage" else "--" + name.replace("_", "-")


_RRDB = Settings(stage=Stage.RRDB, config="df2k-x4", steps=100_000, batch=64, patch=160, lr=2e-4)
_DIFFUSION = replace(_RRDB, stage=Stage.DIFFUSION, steps=400_000)
_MINI = replace(
    _RRDB,
    config="mini-x4",
    patch=64,
    batch=8,
    lr=1e-3,
    decay=Decay.COSINE,
    warmup=20,
    clip=1.0,
    augment=True,
)

PRESETS: dict[tuple[Stage, str], Settings] = {
    (recipe.stage, recipe.config): recipe
    for recipe in (
        _RRDB,
        replace(_RRDB, config="celeba-x8"),
        replace(_RRDB, config="paper-x4", batch=16),
        replace(_MINI, steps=1_500, init=Init.NEAREST),
        _DIFFUSION,
        replace(_DIFFUSION, config="celeba-x8", batch=32, steps=300_000, lr_halve_every=100_000),
        replace(_DIFFUSION, config="paper-x4", batch=16, lr_halve_every=100_000),
        replace(_MINI, stage=Stage.DIFFUSION, steps=3_800, ema=0.998),
    )
}
"""Recipes: those of the authors' configurations and of the paper (spec sections 0 and 4), and the
small model's."""
