"""Learnable boundary quantizers: uniform grids between two learned bounds.

Every quantizer answers with the dequantized value; rounding passes gradients straight through,
clipping passes them only inside the grid, its two ends included.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn

from pipelines.contract import PipelineError

Tensor = torch.Tensor

SMALLEST_RANGE = 1e-8
"""Least width of the corrected grids, in units of the quantized value."""


class _RoundHalfAway(torch.autograd.Function):
    """Rounding whose gradient is the identity."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return (value + torch.copysign(value.new_tensor(0.5), value)).trunc_()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient


class _Clip(torch.autograd.Function):
    """Clipping to [low, high] whose gradient is 1 on the closed interval.

    `torch.clamp` will not do: what it passes at the two ends changed between releases.
    """

    @staticmethod
    def forward(ctx: Any, value: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward((value >= low) & (value <= high))
        return value.clamp(low, high)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None


def round_half_away(value: Tensor) -> Tensor:
    """sign(v) floor(|v| + 1/2); straight-through."""
    return torch.as_tensor(_RoundHalfAway.apply(value))


def clip(value: Tensor, low: float, high: float) -> Tensor:
    """`value` in [low, high]; the gradient passes inside, ends included."""
    if not torch.is_grad_enabled():
        return value.clamp(low, high)
    return torch.as_tensor(_Clip.apply(value, low, high))


def fake_quantize(
    x: Tensor, low: Tensor, high: Tensor, levels: int, zero_step: Tensor | None = None
) -> Tensor:
    """Nearest point to `x` on the grid from `low` to `high` (spec 2.3).

    Args:
        x: Any shape.
        low: Lower bound, broadcastable to `x`.
        high: Upper bound, above `low`.
        levels: Steps of the grid, 2^bits - 1.
        zero_step: Step that the zero point is computed with; the grid's own where None.
    """
    step = (high - low) / levels
    zero = round_half_away(low / (step if zero_step is None else zero_step))
    code = clip(round_half_away(x / step) - zero, 0, levels)
    return (code + zero) * step


def _at_most_zero(value: Tensor) -> Tensor:
    return torch.where(value < 0, value, value - value.detach())


def _at_least(value: Tensor, floor: float) -> Tensor:
    return torch.where(value > floor, value, floor + (value - value.detach()))


def check_range(low: Tensor, high: Tensor, name: str) -> None:
    """Refuse scalars that are no range of the input of `name`.

    Raises:
        PipelineError: They are no numbers, infinite, or `low` is not below `high`.
    """
    if not (low.isfinite() & high.isfinite()):
        raise PipelineError(
            f"{name}: its input has values that are no numbers, or infinite; look at the weights "
            "and at the pictures"
        )
    if low >= high:
        raise PipelineError(
            f"{name}: from {float(low):.4g} to {float(high):.4g} is no range, its input is "
            "constant; give pictures with detail"
        )


def keeping_precision(fn: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """What `nn.Module.to` does, but for casts to less precision: codes must not depend on them."""

    def move(tensor: Tensor) -> Tensor:
        moved = fn(tensor)
        kept = torch.promote_types(moved.dtype, tensor.dtype) == moved.dtype
        return moved if kept else tensor.to(moved.device)

    return move


class Quantizer(nn.Module):
    """Bounds that are set once from data or by loading them, then learned.

    Attributes:
        levels: Steps of the grid.
        initialized: Whether the bounds mean anything yet.
    """

    x_max: nn.Parameter

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.levels = levels
        self.initialized = False

    def set_bounds(self, low: Tensor, high: Tensor) -> None:
        """Take these bounds, shaped or broadcastable like the quantizer's own."""
        raise NotImplementedError

    def mark_initialized(self) -> None:
        """The bounds are what they shall be."""
        self.initialized = True

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(keeping_precision(fn), recurse)  # type: ignore[no-untyped-call]
        return self

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state, prefix, *args)
        if all(prefix + name in state for name, _ in self.named_parameters(recurse=False)):
            self.mark_initialized()


class BoundaryQuantizer(Quantizer):
    """The published quantizer: `x_min` and `x_max` free of each other.

    The golden outputs tell that the published zero point divides by the step which the bounds had
    when they were initialized, as a constant once they moved: then the grid is no longer the one
    between them. While they stay, or before they are initialized, value and gradients are those of
    spec 2.3. The constant is `initial_step`: a published state dict does not have it, so that one
    loaded elsewhere takes the step of its own bounds. `network.learned_tensors` keeps it.
    """

    initial_step: Tensor

    def __init__(self, levels: int, template: Tensor) -> None:
        """`template` gives the bounds' shape, dtype and device."""
        super().__init__(levels)
        self.x_min = nn.Parameter(torch.zeros_like(template))
        self.x_max = nn.Parameter(torch.ones_like(template))
        self.register_buffer("initial_step", torch.ones_like(template), persistent=False)

    @torch.no_grad()
    def set_bounds(self, low: Tensor, high: Tensor) -> None:
        """Take these bounds; where they are equal, which gives no grid, zero is the other end."""
        flat = low >= high
        self.x_min.copy_(torch.where(flat, low.clamp(max=0), low))
        self.x_max.copy_(torch.where(flat, high.clamp(min=SMALLEST_RANGE), high))
        self.initialized = False
        self.mark_initialized()

    @torch.no_grad()
    def mark_initialized(self) -> None:
        """Keep the step of the present bounds for the zero point, unless there is one already."""
        if not self.initialized:
            self.initial_step.copy_((self.x_max - self.x_min) / self.levels)
        super().mark_initialized()

    def forward(self, x: Tensor) -> Tensor:
        step = (self.x_max - self.x_min) / self.levels
        zero_step = torch.where(step == self.initial_step, step, self.initial_step)
        constant = zero_step if self.initialized else None
        return fake_quantize(x, self.x_min, self.x_max, self.levels, constant)


class ActivationQuantizer(Quantizer):
    """The corrected quantizer of a tensor: zero always lies on its grid."""

    def __init__(self, levels: int, template: Tensor) -> None:
        """`template` gives dtype and device; the bounds are scalars."""
        super().__init__(levels)
        self.x_min = nn.Parameter(template.new_zeros(()))
        self.x_max = nn.Parameter(template.new_ones(()))

    @torch.no_grad()
    def set_bounds(self, low: Tensor, high: Tensor) -> None:
        """Take these bounds, widened to contain zero."""
        self.x_min.copy_(low.clamp(max=0))
        self.x_max.copy_(high.clamp(min=SMALLEST_RANGE))
        self.mark_initialized()

    def grid(self) -> tuple[Tensor, Tensor]:
        """Step (scalar) and zero point (scalar, an integer, at most 0).

        Bounds that learning pushed past zero or each other count as there; gradients still reach
        them.
        """
        low = _at_most_zero(self.x_min)
        step = (_at_least(self.x_max, SMALLEST_RANGE) - low) / self.levels
        return step, round_half_away(low / step)

    @staticmethod
    def multiplier(scale: Tensor, step: Tensor) -> Tensor:
        """What turns a shifted input into steps of the grid, shaped like `scale`."""
        return 1 / (scale * step)

    def forward(self, x: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
        """Nearest grid point to (x - offset) / scale, in one subtraction and one product."""
        step, zero = self.grid()
        steps = (x - offset) * self.multiplier(scale, step)
        return (clip(round_half_away(steps) - zero, 0, self.levels) + zero) * step


class SymmetricQuantizer(Quantizer):
    """The corrected quantizer of weights: `x_min` is -`x_max`, and zero is the middle code."""

    def __init__(self, levels: int, template: Tensor) -> None:
        """`template` gives the bound's shape, dtype and device; `levels` is even."""
        super().__init__(levels)
        self.x_max = nn.Parameter(torch.ones_like(template))

    @property
    def x_min(self) -> Tensor:
        """Lower bound."""
        return -self.x_max

    @torch.no_grad()
    def set_bounds(self, low: Tensor, high: Tensor) -> None:
        """Take the larger magnitude of each pair."""
        self.x_max.copy_(torch.maximum(-low, high).clamp(min=SMALLEST_RANGE))
        self.mark_initialized()

    def step(self) -> Tensor:
        """Width of a step, shaped like the bound."""
        return 2 * _at_least(self.x_max, SMALLEST_RANGE) / self.levels

    def codes(self, x: Tensor, step: Tensor) -> Tensor:
        """Integers -`levels`/2 to `levels`/2."""
        half = self.levels // 2
        return clip(round_half_away(x / step), -half, half)

    def forward(self, x: Tensor) -> Tensor:
        step = self.step()
        return self.codes(x, step) * step
