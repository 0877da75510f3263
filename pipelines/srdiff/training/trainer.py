"""Networks, Adam and averaged weights of one process, and what an update does to them."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import Accelerator

from pipelines.contract import PipelineError
from pipelines.srdiff.dataset import Sample
from pipelines.srdiff.training.objective import Objective
from pipelines.srdiff.training.settings import Precision, Settings
from pipelines.srdiff.training.start import Origin
from pipelines.training.averaging import Average
from pipelines.training.batches import reseed
from pipelines.training.states import State

_ACCELERATE = {Precision.FP32: "no", Precision.FP16: "fp16", Precision.BF16: "bf16"}


def open_accelerator(settings: Settings) -> Accelerator:
    """The process's share of the machine.

    Raises:
        PipelineError: The precision cannot be had on it.
    """
    if settings.precision is Precision.FP16 and not torch.cuda.is_available():
        raise PipelineError("--precision fp16: needs a GPU; the CPU can do fp32 and bf16")
    accelerator = Accelerator(
        mixed_precision=_ACCELERATE[settings.precision],
        gradient_accumulation_steps=settings.accumulate,
    )
    if accelerator.device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # one patch size for hours
    return accelerator


class Trainer:
    """Networks, Adam and average of one process, and the update of them.

    Args:
        accelerator: Of the process.
        origin: Of the run.
        objective: With initial weights.

    Attributes:
        accelerator: As given.
        objective: On the device, not wrapped.
        average: Of its trained weights, where the settings want one.
        settings: Of the run.
    """

    def __init__(self, accelerator: Accelerator, origin: Origin, objective: Objective) -> None:
        self.accelerator, self._origin = accelerator, origin
        self.objective = objective.to(accelerator.device).to(memory_format=torch.channels_last)
        self._trained = {n: p for n, p in objective.named_parameters() if p.requires_grad}
        self.settings = settings = origin.settings
        self.average = Average(self.objective, settings.ema) if settings.ema else None
        optimizer = torch.optim.Adam(self._trained.values(), lr=settings.lr, fused=True)
        self._wrapped, self._optimizer = accelerator.prepare(self.objective, optimizer)
        self._generator = torch.Generator(accelerator.device)

    def add(self, sample: Sample, slot: int) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Work through a part of an update; the last part makes the update.

        Args:
            sample: The part.
            slot: Number of the part, which its noise follows from.

        Returns:
            Its loss and, of the last part, the norm of the gradients before they were clipped;
            both still on the device.
        """
        settings, accelerator = self.settings, self.accelerator
        norm = None
        with accelerator.accumulate(self._wrapped):
            loss = self._wrapped(*sample, reseed(self._generator, settings.seed, slot))
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                limit = settings.clip or math.inf
                norm = accelerator.clip_grad_norm_(list(self._trained.values()), limit)
            self._optimizer.step()
            self._optimizer.zero_grad()
        return loss.detach(), norm

    def begin(self, step: int) -> None:
        """Set the learning rate of update `step`."""
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.lr_at(step)

    def finish(self, step: int) -> None:
        """Average the weights after update `step`."""
        if self.average is not None:
            self.average.update(step + 1)

    def state(self, step: int) -> State:
        """Everything that the updates after `step` depend on."""
        content: dict[str, Any] = {
            "objective": {n: p.detach() for n, p in self._trained.items()},
            "optimizer": self._optimizer.state_dict(),
        }
        if self.average is not None:
            content["average"] = self.average.state_dict()
        if self.accelerator.scaler is not None:
            content["scaler"] = self.accelerator.scaler.state_dict()
        return State(step, self._origin.identity, content)

    def restore(self, state: State) -> int:
        """Inverse of `state`; its step."""
        self.objective.load_state_dict(state.content["objective"], strict=False)
        self._optimizer.load_state_dict(state.content["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state.content["average"])
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(state.content["scaler"])
        return state.step
