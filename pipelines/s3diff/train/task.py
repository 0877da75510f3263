"""One update of S3Diff's training, in the published order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import Dataset

from pipelines.s3diff.train.checkpoint import Keeper
from pipelines.s3diff.train.discriminators import Discriminator
from pipelines.s3diff.train.losses import (
    FAKE_TARGET,
    REAL_TARGET,
    multilevel_bce,
    reconstruction_loss,
)
from pipelines.s3diff.train.model import POSITIVE, TrainableS3Diff
from pipelines.s3diff.train.optimization import Optimization
from pipelines.s3diff.train.photos import Sample
from pipelines.s3diff.train.samples import Part, Purpose, draw_noise, make_part
from pipelines.s3diff.train.settings import Settings
from pipelines.s3diff.train.validation import Validation
from pipelines.training.batches import Share, numbered_loader, reseed
from pipelines.training.loop import Look

Scalars = dict[str, torch.Tensor]
_RECONSTRUCTION = ("loss", "mse", "lpips", "grad_norm")
_ADVERSARIAL = ("gan", "gan_grad_norm", "d_real", "d_fake", "d_grad_norm")


class S3DiffTask:
    """Networks, optimizers and samples of one process (`pipelines.training.loop.Task`).

    An update makes two steps of the generator and two of the discriminator, each after clipping:
    reconstruction on mixed prompts and targets; the discriminator's judgement of a second forward
    with the positive prompt; real crops; the generated ones of that forward.

    Not repeated from the published program (spec section 9, row 25): its learning-rate schedulers
    advance twice an update (here the rate is constant, as it is there without meaning to); with
    accumulation its first step also takes the adversarial gradients of all parts but the last, and
    the adversarial step those of the last part alone (here each step takes all parts of its own
    loss); the generator's adversarial gradient leaks into the discriminator's next step (here the
    discriminator is frozen in it); trained weights are halved under mixed precision (here float32);
    nothing is logged and the number of steps does not stop it.

    Args:
        accelerator: Of the process.
        settings: Of the run.
        model: On the device.
        discriminator: On the device; None to train without.
        lpips: Called on two batches in [-1, 1], gives [B]; None where its weight is 0.
        samples: Numbered without end.
        validation: None for none.
        keeper: Writes `s3diff.pkl`; None where another process does.
        workers: Processes that prepare samples.

    Attributes:
        columns: Names of the scalars of an update.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        settings: Settings,
        model: TrainableS3Diff,
        discriminator: Discriminator | None,
        lpips: nn.Module | None,
        samples: Dataset[Sample],
        *,
        validation: Validation | None = None,
        keeper: Keeper | None = None,
        workers: int = 0,
    ) -> None:
        self.columns = _RECONSTRUCTION + (_ADVERSARIAL if discriminator else ())
        self._accelerator, self._settings = accelerator, settings
        self._model, self._discriminator, self._lpips = model, discriminator, lpips
        self._samples, self._validation, self._keeper = samples, validation, keeper
        self._workers = workers
        processes = accelerator.num_processes
        part = settings.part(processes)
        self._share = Share(accelerator.process_index, processes, part, settings.run.accumulate)
        self._loaded: Iterator[Sample] = iter(())
        self._generator = torch.Generator(accelerator.device)
        adam = settings.optimizer
        self._g = Optimization(model.trained_parameters(), adam.generator, accelerator)
        self._d: Optimization | None = None
        if discriminator is not None:
            trained = discriminator.trained_parameters()
            self._d = Optimization(trained, adam.discriminator, accelerator)

    def begin(self, steps: range) -> None:
        """Open the samples of these updates; without any, the checkpoint is that of the state."""
        if not steps and self._keeper is not None:
            self._keeper.after(steps.stop, self._model)
        self._loaded = numbered_loader(
            self._samples,
            self._share,
            steps,
            workers=self._workers,
            pinned=self._accelerator.device.type == "cuda",
        )

    def update(self, step: int) -> Scalars:
        """All four steps; the scalars are this process's means over its parts."""
        parts = [self._next_part(step, index) for index in range(self._share.parts)]
        scalars = self._reconstruct(parts)
        if self._discriminator is not None:
            adversarial, fakes = self._deceive(step, parts)
            scalars |= adversarial | self._discriminate(step, parts, fakes)
        if self._keeper is not None:
            self._keeper.after(step + 1, self._model)
        return scalars

    def state_dict(self) -> dict[str, Any]:
        """Trained tensors, both optimizers, and the loss scale of fp16."""
        content: dict[str, Any] = {
            "model": {
                group: {name: tensor.detach() for name, tensor in tensors.items()}
                for group, tensors in self._model.trained_tensors().items()
            },
            "optimizer": self._g.state_dict(),
        }
        if self._discriminator is not None and self._d is not None:
            content["discriminator"] = self._discriminator.trained_state_dict()
            content["discriminator_optimizer"] = self._d.state_dict()
        if self._accelerator.scaler is not None:
            content["scaler"] = self._accelerator.scaler.state_dict()
        return content

    def load_state_dict(self, content: dict[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self._model.load_trained_tensors(content["model"])
        self._g.load_state_dict(content["optimizer"])
        if self._discriminator is not None and self._d is not None:
            self._discriminator.load_trained_state_dict(content["discriminator"])
            self._d.load_state_dict(content["discriminator_optimizer"])
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(content["scaler"])

    def batch_names(self, step: int) -> str:
        """Photographs and seeds of this process's samples; they are read again for it."""
        numbers = [n for index in range(self._share.parts) for n in self._numbers(step, index)]
        samples = [self._samples[number] for number in numbers]
        return ", ".join(f"{sample.name} seed {sample.seed}" for sample in samples)

    def look(self, step: int) -> Look:
        """Validate the networks as they are."""
        if self._validation is None:
            return Look()
        with self._accelerator.autocast():
            return self._validation.look(self._model)

    def _numbers(self, step: int, index: int) -> list[int]:
        return self._share.numbers(step, index)

    def _next_part(self, step: int, index: int) -> Part:
        sample = next(self._loaded)
        hr = sample.hr.to(self._accelerator.device, non_blocking=True)
        seeds = torch.as_tensor(sample.seed).tolist()
        return make_part(hr, self._numbers(step, index), seeds, self._settings)

    def _reconstruct(self, parts: Sequence[Part]) -> Scalars:
        losses = []
        for part in parts:
            picture = self._restore(part, part.prompts, Purpose.RECONSTRUCTION_NOISE)
            loss = reconstruction_loss(picture, part.target, self._lpips, self._settings.loss)
            self._accelerator.backward(loss.total / len(parts))
            losses.append(torch.stack([loss.total.detach(), loss.mse, loss.lpips]))
        means = torch.stack(losses).mean(dim=0)
        return dict(zip(_RECONSTRUCTION, [*means, self._g.step()], strict=True))

    def _deceive(self, step: int, parts: Sequence[Part]) -> tuple[Scalars, list[torch.Tensor]]:
        """The generator's adversarial step, and the pictures of it for the discriminator."""
        assert self._discriminator is not None
        assert self._d is not None
        losses, fakes = [], []
        with self._d.frozen():
            for index, part in enumerate(parts):
                prompts = torch.full_like(part.prompts, POSITIVE)
                picture = self._restore(part, prompts, Purpose.ADVERSARIAL_NOISE)
                loss = self._judge(
                    picture, REAL_TARGET, step, index, Purpose.GENERATOR_AUGMENTATION
                )
                self._accelerator.backward(loss / len(parts))
                losses.append(loss.detach())
                fakes.append(picture.detach())
        return {"gan": torch.stack(losses).mean(), "gan_grad_norm": self._g.step()}, fakes

    def _discriminate(
        self, step: int, parts: Sequence[Part], fakes: Sequence[torch.Tensor]
    ) -> Scalars:
        """The discriminator's two steps, first on crops, then on generated pictures."""
        assert self._d is not None
        scalars = {}
        for name, pictures, target, purpose in (
            ("d_real", [part.hr for part in parts], REAL_TARGET, Purpose.REAL_AUGMENTATION),
            ("d_fake", fakes, FAKE_TARGET, Purpose.FAKE_AUGMENTATION),
        ):
            losses = []
            for index, picture in enumerate(pictures):
                loss = self._judge(picture, target, step, index, purpose)
                self._accelerator.backward(loss / len(parts))
                losses.append(loss.detach())
            scalars[name] = torch.stack(losses).mean()
            scalars["d_grad_norm"] = self._d.step()
        return scalars

    def _restore(self, part: Part, prompts: torch.Tensor, purpose: Purpose) -> torch.Tensor:
        shape = self._model.latent_shape(part.x.shape[-2:])
        noise = draw_noise(part, shape, self._settings.run.seed, purpose, self._generator)
        with self._accelerator.autocast():
            picture: torch.Tensor = self._model(part.lr, part.x, prompts, noise)
        return picture

    def _judge(
        self, picture: torch.Tensor, target: float, step: int, index: int, purpose: Purpose
    ) -> torch.Tensor:
        """Weighted loss of the discriminator's judgement."""
        assert self._discriminator is not None
        slot = self._share.slot(step, index)
        generator = reseed(self._generator, self._settings.run.seed, slot, purpose)
        with self._accelerator.autocast():
            logits = self._discriminator(picture, generator)
        return self._settings.loss.gan * multilevel_bce(logits, target)
