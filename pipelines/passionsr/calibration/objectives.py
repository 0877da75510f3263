"""How far a quantized part is from full precision: the loss of each stage."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pipelines.passionsr.calibration.model import Condition, OneStepModel
from pipelines.passionsr.calibration.schedule import Component, Learned, Schedule, Stage
from pipelines.passionsr.calibration.store import Store, Tensors
from pipelines.passionsr.calibration.targets import draw_noise
from pipelines.passionsr.choices import Components

Tensor = torch.Tensor

_STUDENT_NOISE = 1
"""Number of the stream of noise that quantized latents are sampled with."""


class Objective:
    """Losses of a model whose layers quantize.

    Args:
        model: Quantized.
        targets: Outputs of full precision by picture.
        inputs: Written here: what the stage's component is fed, by picture.
        schedule: Decides the targets.
        components: `unet` is fed by full precision.
        pictures: How many there are.
        seed: Of sampled latents.
    """

    def __init__(
        self,
        model: OneStepModel,
        targets: Store,
        inputs: Store,
        schedule: Schedule,
        components: Components,
        pictures: int,
        seed: int,
    ) -> None:
        self._model, self._targets, self._inputs = model, targets, inputs
        self._schedule, self._components = schedule, components
        self._pictures, self._seed = pictures, seed

    @torch.no_grad()
    def prepare(self, stage: Stage) -> None:
        """Compute what the stage's component is fed: outputs of the quantized ones before it."""
        if stage.component is Component.ENCODER:
            return
        for number in range(self._pictures):
            targets = self._targets.get(number)
            condition = self._model.condition(targets["lr"].numpy())
            fed = {"latent": self._latent(condition, targets, number, 0)}
            if stage.component is Component.DECODER:
                fed["x0"] = self._x0(condition, fed["latent"])
            self._inputs.put(number, fed)

    def loss(self, stage: Stage, number: int, epoch: int) -> Tensor:
        """Mean squared error of one picture, 0-dim.

        Encoder: latent. UNet: x0, which holds the encoder's error against the UNet's; in mode
        `paper` with a quantized VAE the first stage takes the predicted noise. Decoder: picture.

        Args:
            stage: Decides what is compared.
            number: Of the picture.
            epoch: Number of the noise where latents are sampled.
        """
        targets = self._targets.get(number)
        condition = self._model.condition(targets["lr"].numpy())
        match stage.component:
            case Component.ENCODER:
                latent = self._encoded(condition, targets, number, epoch)
                return F.mse_loss(latent, targets["latent"])
            case Component.UNET:
                latent = self._inputs.get(number)["latent"]
                eps = self._model.eps(condition, latent)
                if self._learns_noise(stage):
                    return F.mse_loss(eps, targets["eps"])
                return F.mse_loss(self._model.x0(latent, eps), targets["x0"])
            case Component.DECODER:
                image = self._model.decode(self._inputs.get(number)["x0"])
                if self._schedule.mode == "paper":
                    hr = targets["hr"]
                    return F.mse_loss(image[..., : hr.shape[-2], : hr.shape[-1]], hr)
                return F.mse_loss(image, targets["image"])

    @torch.no_grad()
    def mean_loss(self, stage: Stage) -> float:
        """Over all pictures."""
        losses = [float(self.loss(stage, number, 0)) for number in range(self._pictures)]
        return sum(losses) / len(losses)

    def _learns_noise(self, stage: Stage) -> bool:
        published = self._schedule.mode == "paper" and self._components == "unet+vae"
        return published and stage.learned is Learned.LET

    def _latent(self, condition: Condition, targets: Tensors, number: int, epoch: int) -> Tensor:
        if self._components == "unet":
            return targets["latent"]
        return self._encoded(condition, targets, number, epoch)

    def _encoded(self, condition: Condition, targets: Tensors, number: int, epoch: int) -> Tensor:
        noise = None
        if self._schedule.mode == "paper":
            shape = tuple(targets["latent"].shape)
            noise = draw_noise(shape, self._seed, _STUDENT_NOISE, epoch, number)
        return self._model.encode(condition, noise)

    def _x0(self, condition: Condition, latent: Tensor) -> Tensor:
        return self._model.x0(latent, self._model.eps(condition, latent))
