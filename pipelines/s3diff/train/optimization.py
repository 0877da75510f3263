"""AdamW of one network: gradients averaged over processes, clipped, in float32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from pipelines.s3diff.train.settings import AdamSettings


class Optimization:
    """Makes a step of the accumulated gradients of one network's trained parameters.

    Processes exchange all gradients at once before a step, in place of DistributedDataParallel: a
    network takes part in several forwards and steps an update, and only 138 MB of it are trained.

    Args:
        parameters: On the device, float32.
        settings: Of AdamW.
        accelerator: Of the process.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], settings: AdamSettings, accelerator: Accelerator
    ) -> None:
        self._parameters, self._clip, self._accelerator = (
            list(parameters),
            settings.clip,
            accelerator,
        )
        self._adam = torch.optim.AdamW(
            self._parameters,
            lr=settings.lr,
            betas=(settings.beta1, settings.beta2),
            weight_decay=settings.weight_decay,
            eps=settings.eps,
            fused=True,
        )

    def step(self) -> torch.Tensor:
        """Use up the gradients; their norm before clipping, still on the device.

        The loss scaling of fp16 skips steps whose gradients overflow: their norm is told as 0.
        """
        if self._accelerator.num_processes > 1:
            self._average()
        scaler = self._accelerator.scaler
        if scaler is not None:
            scaler.unscale_(self._adam)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._clip)
        if scaler is None:
            self._adam.step()
        else:
            scaler.step(self._adam)
            scaler.update()
            norm = torch.where(norm.isfinite(), norm, 0)
        self._adam.zero_grad()
        return norm.detach()

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """The parameters get no gradients inside the block."""
        for parameter in self._parameters:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in self._parameters:
                parameter.requires_grad_(True)

    def state_dict(self) -> dict[str, Any]:
        """Of AdamW."""
        return dict(self._adam.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Inverse of `state_dict`; the state may come from another kind of device.

        The fused AdamW takes tensors in the order of memory, and parameters are laid out otherwise
        on CUDA: CUDA would refuse moments of another layout, the CPU would mix them up.
        """
        self._adam.load_state_dict(state)
        for parameter, moments in self._adam.state.items():
            for name, moment in moments.items():
                if moment.shape == parameter.shape:
                    moments[name] = torch.empty_like(parameter).copy_(moment)

    def _average(self) -> None:
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        mean = self._accelerator.reduce(flat, "mean")
        parts = mean.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(
            gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)]
        )
