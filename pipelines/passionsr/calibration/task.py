"""The stages of a calibration as updates of a training loop, one picture each."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipelines.passionsr.calibration.coordinates import Coordinates, coordinates
from pipelines.passionsr.calibration.objectives import Objective
from pipelines.passionsr.calibration.quantized import Quantized
from pipelines.passionsr.calibration.schedule import Component, Learned, Schedule, Stage, stages
from pipelines.passionsr.network import learned_tensors, load_learned
from pipelines.passionsr.statistics import watching
from pipelines.pictures import Note
from pipelines.training.loop import Look

_SLOWER = 0.5
"""Factor of the rate after an epoch that was taken back."""


@dataclass(frozen=True, slots=True)
class Epoch:
    """How an epoch ended.

    Attributes:
        stage: In words.
        number: From 1; 0 is before the first.
        loss: Mean over all pictures with what was kept.
        kept: Whether what the epoch learned was.
    """

    stage: str
    number: int
    loss: float
    kept: bool


class DqcTask:
    """Learns the parameters of quantized layers, stage by stage.

    Args:
        quantized: The layers.
        objective: Losses.
        schedule: How long and how fast.
        pictures: How many there are.
        seed: Of their order.
        initial: Called once before everything: gives the layers scales and bounds, and rows.
        measured: Called with what was done, after each stage: a row, of plain values.
        note: Told how epochs end.

    Attributes:
        epochs: So far.
        rows: So far.
    """

    columns: tuple[str, ...] = ("loss", "rate")

    def __init__(
        self,
        quantized: Quantized,
        objective: Objective,
        schedule: Schedule,
        pictures: int,
        seed: int,
        *,
        initial: Callable[[], list[Any]],
        measured: Callable[[str], Any],
        note: Note,
    ) -> None:
        self._quantized, self._objective, self._schedule = quantized, objective, schedule
        self._pictures, self._seed = pictures, seed
        self._initial, self._measured, self._note = initial, measured, note
        self._stages = stages(quantized.components)
        self._all = quantized.every()
        self._per_stage = schedule.epochs * pictures
        self.epochs: list[Epoch] = []
        self.rows: list[Any] = []
        self._coordinates: Coordinates
        self._optimizer: torch.optim.Adam
        self._kept: dict[str, Any]
        self._resumed: dict[str, Any]
        self._factor = 1.0

    @property
    def steps(self) -> int:
        """Updates of all stages."""
        return len(self._stages) * self._per_stage

    def begin(self, steps: range) -> None:
        """See `pipelines.training.loop.Task`."""
        if not steps.start:
            self.rows = self._initial()
        number, within = divmod(steps.start, self._per_stage)
        if within:
            stage = self._stages[number]
            self._objective.prepare(stage)
            self._begin_learning(stage)
            self._coordinates.load_state_dict(self._resumed["coordinates"])
            self._optimizer.load_state_dict(self._resumed["optimizer"])
            self._kept, self._factor = self._resumed["kept"], self._resumed["factor"]

    def update(self, step: int) -> dict[str, torch.Tensor]:
        """One picture forward and backward, one step of the optimizer."""
        number, within = divmod(step, self._per_stage)
        stage, (epoch, index) = self._stages[number], divmod(within, self._pictures)
        if not within:
            self._start(stage)
        if not index or self._schedule.mode == "fixed":
            self._coordinates.vector.grad = None
        picture = self._order(number, epoch)[index]
        with self._bounds_follow(stage):
            loss = self._objective.loss(stage, picture, epoch)
        loss.backward()
        rate = self._factor * self._schedule.rate(stage, within, self._pictures)
        self._step(stage, rate)
        if index == self._pictures - 1:
            self._end_epoch(stage, epoch + 1)
        return {"loss": loss.detach(), "rate": torch.tensor(rate)}

    def state_dict(self) -> dict[str, Any]:
        """See `pipelines.training.loop.Task`."""
        return {
            "parameters": {path: learned_tensors(layer) for path, layer in self._all.items()},
            "epochs": [[e.stage, e.number, e.loss, e.kept] for e in self.epochs],
            "rows": copy.deepcopy(self.rows),
            "stage": {
                "coordinates": self._coordinates.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "kept": self._kept,
                "factor": self._factor,
            },
        }

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """See `pipelines.training.loop.Task`."""
        for path, layer in self._all.items():
            load_learned(layer, content["parameters"][path])
        self.epochs = [Epoch(*row) for row in content["epochs"]]
        self.rows = content["rows"]
        self._resumed = content["stage"]

    def batch_names(self, step: int) -> str:
        """See `pipelines.training.loop.Task`."""
        number, within = divmod(step, self._per_stage)
        epoch, index = divmod(within, self._pictures)
        return f"{self._stages[number]}, picture {self._order(number, epoch)[index]}"

    def look(self, step: int) -> Look:
        """Nothing: stages are measured when they end."""
        return Look()

    def _order(self, stage: int, epoch: int) -> list[int]:
        """Pictures of an epoch."""
        order: list[int] = (
            np.random.default_rng((self._seed, stage, epoch)).permutation(self._pictures).tolist()
        )
        return order

    def _start(self, stage: Stage) -> None:
        self._objective.prepare(stage)
        self._begin_learning(stage)
        self._coordinates.write()
        self._factor = 1.0
        self._keep()
        self._record(Epoch(str(stage), 0, self._loss_before(stage), kept=True))

    def _loss_before(self, stage: Stage) -> float:
        """Over all pictures; in mode `fixed` both stages of a component have the same one."""
        if self._schedule.mode == "fixed" and stage.learned is Learned.BOUNDS:
            return self.epochs[-1].loss
        return self._objective.mean_loss(stage)

    def _begin_learning(self, stage: Stage) -> None:
        """Let gradients reach the stage's parameters and no others."""
        for layer in self._all.values():
            layer.requires_grad_(False)
        layers = self._quantized.of(stage.component)
        relative = self._schedule.mode == "fixed"
        self._coordinates = coordinates(layers.values(), stage.learned, relative=relative)
        self._optimizer = torch.optim.Adam([self._coordinates.vector])

    @contextmanager
    def _bounds_follow(self, stage: Stage) -> Iterator[None]:
        """The published stage of LET for the UNet alone takes bounds from every picture anew."""
        published = self._schedule.mode == "paper" and self._quantized.components == "unet"
        if not published or stage.learned is Learned.BOUNDS:
            yield
            return
        layers = self._quantized.layers_of(stage.component)

        def take(path: str, x: torch.Tensor) -> None:
            layers[path].set_weight_bounds()
            layers[path].take_activation_bounds(x)

        with watching(layers, take):
            yield

    def _step(self, stage: Stage, rate: float) -> None:
        self._coordinates.take_gradient()
        self._optimizer.param_groups[0]["lr"] = rate
        self._optimizer.step()
        self._coordinates.write()
        if self._schedule.mode == "fixed":
            self._follow(stage)

    def _follow(self, stage: Stage) -> None:
        """Bounds of the weights W s follow s."""
        if stage.learned is Learned.LET:
            for layer in self._quantized.layers_of(stage.component).values():
                layer.set_weight_bounds()

    def _end_epoch(self, stage: Stage, number: int) -> None:
        """Write down the loss over all pictures; in mode `fixed` take back what did not help."""
        loss = self._objective.mean_loss(stage)
        if self._schedule.mode == "paper" or loss < self.epochs[-1].loss:
            self._keep()
            self._record(Epoch(str(stage), number, loss, kept=True))
        else:
            with torch.no_grad():
                self._coordinates.vector.copy_(self._kept["vector"])
            self._optimizer.load_state_dict(self._kept["optimizer"])
            self._coordinates.write()
            self._follow(stage)
            self._factor *= _SLOWER
            self._record(Epoch(str(stage), number, self.epochs[-1].loss, kept=False))
        component_done = stage.learned is Learned.BOUNDS or stage.component is Component.UNET
        if number == self._schedule.epochs and component_done:
            self.rows.append(self._measured(f"after {stage}"))

    def _keep(self) -> None:
        self._kept = {
            "vector": self._coordinates.vector.detach().clone(),
            "optimizer": copy.deepcopy(self._optimizer.state_dict()),
        }

    def _record(self, epoch: Epoch) -> None:
        self.epochs.append(epoch)
        undone = "" if epoch.kept else " (taken back, half the rate)"
        self._note(f"{epoch.stage}, epoch {epoch.number}: loss {epoch.loss:.4g}{undone}")
