"""The reverse process: ancestral sampling over all timesteps, as published."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pipelines.srdiff.config import RESIDUAL_SCALE
from pipelines.srdiff.schedule import Schedule

Predict = Callable[[torch.Tensor, int], torch.Tensor]
"""x_t and t -> predicted noise."""
Watch = Callable[[int, torch.Tensor, torch.Tensor], None]
"""t, x_t and the estimate of x0 there."""


class Noise:
    """Standard normal noise in the published order: that of `torch.manual_seed(seed)`.

    Drawn in float32 by a generator of its own.

    Args:
        seed: Of the generator.
        like: Device, dtype and shape of what `draw` gives.
        device: Of the generator: on `cpu` the numbers are the same whatever `like` is on.
    """

    def __init__(self, seed: int, like: torch.Tensor, device: torch.device | str = "cpu") -> None:
        self._device = torch.device(device)
        # The meta device has no numbers, hence no generators.
        is_meta = self._device.type == "meta"
        self._generator = None if is_meta else torch.Generator(device).manual_seed(seed)
        self._like = like

    def draw(self) -> torch.Tensor:
        """The next noise of a sample."""
        noise = torch.randn(
            self._like.shape, generator=self._generator, dtype=torch.float32, device=self._device
        )
        return noise.to(self._like.device, self._like.dtype)

    def fill(self, out: torch.Tensor) -> None:
        """The next noise, written into a contiguous tensor of the shape of `like`."""
        if out.dtype == torch.float32 and out.device.type == self._device.type:
            out.normal_(generator=self._generator)
        else:
            out.copy_(self.draw())

    def draw_like(self, x: torch.Tensor) -> torch.Tensor:
        """Noise for a picture, in its memory layout.

        The published forward process draws so, and PyTorch gives other numbers to a permuted
        layout than to a contiguous one.
        """
        noise = torch.empty_like(x, dtype=torch.float32, device=self._device)
        return noise.normal_(generator=self._generator).to(x.device, x.dtype)


def estimate_x0(schedule: Schedule, x: torch.Tensor, t: int, eps: torch.Tensor) -> torch.Tensor:
    """x0 from x_t and the noise in it, clamped to [-1, 1]; without the clamp pictures break."""
    return (schedule.recip[t] * x - schedule.recipm1[t] * eps.to(x.dtype)).clamp(-1, 1)


def reverse(
    schedule: Schedule,
    x: torch.Tensor,
    start: int,
    predict: Predict,
    noise: Noise,
    watch: Watch | None = None,
) -> torch.Tensor:
    """Denoise from timestep `start` to 0 (SRDiff algorithm 2, x0 clamped as published).

    Args:
        schedule: In the dtype of x.
        x: x_start, [B, 3, H, W].
        start: First timestep.
        predict: The network.
        noise: Drawn from once a step, at t = 0 too, where it has no weight.
        watch: Told of each step.

    Returns:
        The residual, in [-1, 1].
    """
    for t in range(start, -1, -1):
        x0 = estimate_x0(schedule, x, t, predict(x, t))
        if watch is not None:
            watch(t, x, x0)
        x = schedule.mean_x0[t] * x0 + schedule.mean_xt[t] * x + schedule.sigma[t] * noise.draw()
    return x


def to_residual(hr: torch.Tensor, lr_up: torch.Tensor) -> torch.Tensor:
    """What is diffused, in [-1, 1]; differences beyond half the range are clamped."""
    return ((hr - lr_up) * RESIDUAL_SCALE).clamp(-1, 1)


def to_picture(residual: torch.Tensor, lr_up: torch.Tensor) -> torch.Tensor:
    """The inverse of `to_residual`; not clamped to [-1, 1], as published."""
    return residual.clamp(-1, 1) / RESIDUAL_SCALE + lr_up


def to_levels(pictures: torch.Tensor) -> torch.Tensor:
    """[B, 3, H, W] in [-1, 1] -> [B, H, W, 3] uint8, contiguous, rounded as published."""
    levels = ((pictures.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).contiguous()
