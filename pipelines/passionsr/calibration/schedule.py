"""What is learned when, and how fast, in distributed quantization calibration; torch-free.

Published (PassionSR, code and configuration files): encoder, UNet, decoder, each fed by what is
quantized before it; of each first the equivalent transformations, then the bounds; Adam at 1e-5 for
2 + 2 epochs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal, Self

from pipelines.contract import PipelineError
from pipelines.passionsr.choices import Components
from pipelines.passionsr.settings import Mode

System = Literal["osediff", "s3diff"]


class Degrading(StrEnum):
    """How a crop becomes a low-resolution picture."""

    REALISTIC = "realistic"
    PLAIN = "plain"


class Component(StrEnum):
    """A part of the model that is calibrated by itself."""

    ENCODER = "encoder"
    UNET = "unet"
    DECODER = "decoder"


class Learned(StrEnum):
    """What a stage changes: scales and shifts of LET, or the bounds of LBQ."""

    LET = "let"
    BOUNDS = "lbq"


@dataclass(frozen=True, slots=True)
class Stage:
    """One stretch of learning.

    Attributes:
        component: Whose layers.
        learned: Which of their parameters.
    """

    component: Component
    learned: Learned

    def __str__(self) -> str:
        return f"{self.component} {self.learned}"


def stages(components: Components) -> tuple[Stage, ...]:
    """All stages in the published order."""
    parts = list(Component) if components == "unet+vae" else [Component.UNET]
    return tuple(Stage(part, learned) for part in parts for learned in Learned)


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How long and how fast.

    Attributes:
        mode: `paper` repeats the published training: gradients add up over an epoch, latents are
            sampled, the decoder learns from the photographs, rates are absolute. `fixed` takes
            each step's own gradient, posterior means, outputs of full precision, and rates relative
            to the size of each parameter, falls to zero as a cosine within a stage, and takes an
            epoch back that did not help.
        epochs: Of each stage.
        let_rate: Of scales and shifts.
        bounds_rate: Of bounds.
        unet_decay: Factor of the UNet's rate after its first epoch.
    """

    mode: Mode
    epochs: int
    let_rate: float
    bounds_rate: float
    unet_decay: float = 1.0

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise PipelineError(f"--epochs {self.epochs}: must be positive")

    @classmethod
    def of(cls, mode: Mode, components: Components, epochs: int | None = None) -> Self:
        """The published values in mode `paper`, ours in mode `fixed`.

        Args:
            mode: Of the layers too.
            components: Which of the two published recipes.
            epochs: Instead of the mode's own.
        """
        if mode == "paper":
            decay = 0.1 if components == "unet" else 0.2
            own = cls(mode=mode, epochs=2, let_rate=1e-5, bounds_rate=1e-5, unet_decay=decay)
        else:
            own = cls(mode=mode, epochs=2, let_rate=2e-3, bounds_rate=3e-4)
        return own if epochs is None else replace(own, epochs=epochs)

    def rate(self, stage: Stage, step: int, pictures: int) -> float:
        """Learning rate of update `step` of a stage, with as many updates an epoch as pictures."""
        base = self.let_rate if stage.learned is Learned.LET else self.bounds_rate
        if self.mode == "paper":
            decays = stage.component is Component.UNET and step >= pictures
            return base * (self.unet_decay if decays else 1.0)
        return base * (1 + math.cos(math.pi * step / (self.epochs * pictures))) / 2
