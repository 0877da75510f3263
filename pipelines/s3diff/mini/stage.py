"""How each of the small model's networks learns: AdamW, a cosine of learning rates, an average."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pipelines.s3diff.mini.crops import Crops
from pipelines.training.averaging import Average
from pipelines.training.loop import Look


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Of one stage.

    Attributes:
        steps: Updates.
        batch: Crops an update.
        crop: Side of an HR crop, pixels.
        lr: Highest learning rate.
        warmup: Updates in which it rises from 0.
        lpips: Weight of LPIPS (VGG16), where the stage has one.
        ema: Decay of the averaged weights, which are those that stay.
        clip: Largest norm of the gradients.
        seed: Of initial weights, crops and noise.
    """

    steps: int
    batch: int
    crop: int
    lr: float
    warmup: int = 50
    lpips: float = 0.0
    ema: float = 0.998
    clip: float = 1.0
    seed: int = 0

    def lr_at(self, step: int) -> float:
        """Learning rate of update `step`, from 0."""
        rising = min(1.0, (step + 1) / (self.warmup + 1))
        return self.lr * rising * (1 + math.cos(math.pi * step / self.steps)) / 2

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class Objective(nn.Module):
    """Networks and the loss that they learn from.

    Args:
        crops: Of photographs.
        settings: Of the stage.
        held_out: uint8 pictures [H, W, 3] to validate on.

    Attributes:
        columns: Names of the parts of the loss; their sum is minimised.
        settings: As given.
    """

    columns: tuple[str, ...]

    def __init__(
        self, crops: Crops, settings: Settings, held_out: Sequence[NDArray[np.uint8]]
    ) -> None:
        super().__init__()
        self._crops, self.settings, self._held_out = crops, settings, held_out

    def losses(self, step: int) -> dict[str, torch.Tensor]:
        """Weighted parts of the loss of update `step`."""
        raise NotImplementedError

    def batch_names(self, step: int) -> str:
        """What update `step` sees."""
        first = step * self.settings.batch
        names = {self._crops.name(n) for n in range(first, first + self.settings.batch)}
        return f"crops {first} and on, of {', '.join(sorted(names))}"

    def look(self) -> Look:
        """Validate."""
        raise NotImplementedError


class StageTask:
    """One stage of the small model's training as `pipelines.training.loop.Task`.

    Args:
        objective: With initial weights, on its device.
    """

    def __init__(self, objective: Objective) -> None:
        settings = objective.settings
        self.columns = (*objective.columns, "grad_norm")
        self.objective, self.settings = objective, settings
        self._trained = [p for p in objective.parameters() if p.requires_grad]
        self._average = Average(objective, settings.ema)
        self._optimizer = torch.optim.AdamW(self._trained, lr=settings.lr, fused=True)

    def begin(self, steps: range) -> None:
        """See `Task`."""

    def update(self, step: int) -> dict[str, torch.Tensor]:
        """See `Task`."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.lr_at(step)
        losses = self.objective.losses(step)
        torch.stack(list(losses.values())).sum().backward()
        norm = nn.utils.clip_grad_norm_(self._trained, self.settings.clip)
        self._optimizer.step()
        self._optimizer.zero_grad()
        self._average.update(step + 1)
        return {**{name: loss.detach() for name, loss in losses.items()}, "grad_norm": norm}

    def state_dict(self) -> dict[str, Any]:
        """See `Task`."""
        return {
            "objective": {
                name: p.detach() for name, p in self.objective.named_parameters() if p.requires_grad
            },
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.state_dict(),
        }

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """See `Task`."""
        self.objective.load_state_dict(content["objective"], strict=False)
        self._optimizer.load_state_dict(content["optimizer"])
        self._average.load_state_dict(content["average"])

    def batch_names(self, step: int) -> str:
        """See `Task`."""
        return self.objective.batch_names(step)

    def look(self, step: int) -> Look:
        """See `Task`; with the averaged weights."""
        with self._average.applied(), torch.no_grad():
            return self.objective.look()

    def average_state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged weights by parameter of the objective."""
        return self._average.state_dict()
