"""What a quantized layer learns, and where it comes from: data, other code, or a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn

from pipelines.contract import PipelineError
from pipelines.passionsr.lbq import Quantizer, check_range, keeping_precision
from pipelines.passionsr.let import smoothing_scale
from pipelines.passionsr.modes import RULES, halves
from pipelines.passionsr.settings import LayerSettings

Tensor = torch.Tensor
Bound = Tensor | float
Bounds = Bound | tuple[Bound, ...]


class LayerState(nn.Module):
    """Scale, shift and bounds of a layer, beside its frozen weight.

    Parameters are named as published: `scale_factor` and `offset` of the transformation,
    `x_min` and `x_max` of `weight_quantizer_0`, `act_quantizer_0`, with two halves also of
    `weight_quantizer_1` and `act_quantizer_1`, in mode `paper` also of `bias_quantizer`.
    Symmetric weights (mode `fixed`) have no `x_min`.

    Attributes:
        name: For messages; whoever knows the layer's path may set it.
        settings: Bits and rules.
        weight: [O, C, ...], not trained and not in the state dict, as published.
        bias: [O] or None; like the weight.
        transforming: Scale and shift as they are; where False they count as 1 and 0.
    """

    channels: int
    """Dimension of an input that holds its channels."""
    sign = 1.0
    """Of the shift in x' = (x - sign δ) / s."""

    def __init__(self, module: nn.Linear | nn.Conv2d, settings: LayerSettings) -> None:
        super().__init__()
        outputs, inputs, *spatial = module.weight.shape
        self.name = f"{type(module).__name__} {inputs} -> {outputs}"
        if settings.split and inputs < 2:
            raise PipelineError(f"{self.name}: one input channel has no halves; set split=False")
        self.settings = settings
        self.rules = RULES[settings.mode]
        self.transforming = True
        self.weight = module.weight.detach()
        self.bias = None if module.bias is None else module.bias.detach()
        self._scaled = False
        ones = torch.ones((), dtype=self.dtype, device=self.weight.device)
        self.scale_factor = nn.Parameter(ones.repeat(1, inputs, *(1 for _ in spatial)))
        self.offset = nn.Parameter(torch.zeros_like(self.scale_factor))
        self._add_quantizers(ones.repeat(outputs, 1, *(1 for _ in spatial)))

    def _add_quantizers(self, per_output: Tensor) -> None:
        settings = self.settings
        for index in range(1 + settings.split):
            weights = self.rules.weight_quantizer(settings.weight_bits, per_output)
            inputs = self.rules.activation_quantizer(settings.activation_bits, per_output)
            self.add_module(f"weight_quantizer_{index}", weights)
            self.add_module(f"act_quantizer_{index}", inputs)
        biases = self.rules.bias_quantizer(settings.weight_bits, per_output)
        self.bias_quantizer = None if self.bias is None else biases

    @property
    def dtype(self) -> torch.dtype:
        """Of the layer's arithmetic."""
        return torch.float64 if self.weight.dtype == torch.float64 else torch.float32

    @property
    def weight_quantizers(self) -> list[Quantizer]:
        """One for each half of the input channels, or one."""
        return self._quantizers("weight_quantizer")

    @property
    def act_quantizers(self) -> list[Quantizer]:
        """One for each half of the input, or one."""
        return self._quantizers("act_quantizer")

    def _quantizers(self, name: str = "") -> list[Quantizer]:
        children = self.named_children()
        return [q for path, q in children if path.startswith(name) and isinstance(q, Quantizer)]

    @property
    def initialized(self) -> bool:
        """Whether a call would take nothing from its input."""
        scaled = self._scaled or not self.transforming
        return scaled and all(quantizer.initialized for quantizer in self._quantizers())

    def let_parameters(self) -> list[nn.Parameter]:
        """Scale and shift."""
        return [self.scale_factor, self.offset]

    def bound_parameters(self) -> list[nn.Parameter]:
        """Every learned bound."""
        return [bound for quantizer in self._quantizers() for bound in quantizer.parameters()]

    def mark_initialized(self) -> None:
        """Nothing is taken from data any more."""
        self._scaled = True
        for quantizer in self._quantizers():
            quantizer.mark_initialized()

    @torch.no_grad()
    def set_scale(self, scale: Tensor) -> None:
        """Take this scale, shaped like `scale_factor`; it is no longer initialized from data.

        Raises:
            PipelineError: A scale is no positive, finite number.
        """
        if not (scale.isfinite() & (scale > 0)).all():
            raise PipelineError(
                f"{self.name}: a scale is not positive and finite; look at the weights and at the "
                "pictures"
            )
        self.scale_factor.copy_(scale)
        self._scaled = True

    @torch.no_grad()
    def set_weight_bounds(self) -> None:
        """Bounds of the smoothed weight, and of the bias, from their least and greatest values."""
        scale, _ = self.transformation()
        parts = halves(self.weight.to(self.dtype) * scale, 1, len(self.weight_quantizers))
        for quantizer, part in zip(self.weight_quantizers, parts, strict=True):
            over = tuple(range(1, part.dim()))
            quantizer.set_bounds(part.amin(over, keepdim=True), part.amax(over, keepdim=True))
        if self.bias_quantizer is not None and self.bias is not None:
            self.bias_quantizer.set_bounds(*self.bias.to(self.dtype).aminmax())

    def set_activation_bounds(self, low: Bounds, high: Bounds) -> None:
        """Take these bounds of the smoothed input: one each, or with halves a pair each.

        Raises:
            PipelineError: No numbers, infinite, or `low` not below `high`.
        """
        lows, highs = (bound if isinstance(bound, tuple) else (bound,) for bound in (low, high))
        for quantizer, *pair in zip(self.act_quantizers, lows, highs, strict=True):
            least, greatest = (torch.as_tensor(bound).to(self.scale_factor) for bound in pair)
            check_range(least, greatest, self.name)
            quantizer.set_bounds(least, greatest)

    @torch.no_grad()
    def take_activation_bounds(self, x: Tensor) -> None:
        """Bounds of the smoothed input from the least and greatest values of this one.

        Raises:
            PipelineError: It has no range, or one token where the split needs two.
        """
        dimension = self.rules.split_dimension(self.channels)
        parts = halves(self.transformed(x), dimension, len(self.act_quantizers))
        if not all(part.numel() for part in parts):
            raise PipelineError(f"{self.name}: one token has no halves; set split=False")
        lows, highs = zip(*(part.aminmax() for part in parts), strict=True)
        self.set_activation_bounds(lows, highs)

    def weight_maximum(self) -> Tensor:
        """max|W| of each input channel, [C]."""
        return self.weight.transpose(0, 1).flatten(1).abs().amax(1).to(self.dtype)

    @torch.no_grad()
    def scale_of(self, x: Tensor) -> Tensor:
        """The initial scale that an input gives, shaped like `scale_factor`."""
        maximum = self.rules.input_maximum(x, self.channels)
        scale = smoothing_scale(maximum, self.weight_maximum(), self.settings.s_alpha)
        return scale.view_as(self.scale_factor)

    def transformation(self) -> tuple[Tensor, Tensor]:
        """Scale s and shift d of x' = (x - d) / s, shaped like `scale_factor`."""
        if not self.transforming:
            return torch.ones_like(self.scale_factor), torch.zeros_like(self.offset)
        return self.scale_factor, self.sign * self.offset

    def transformed(self, x: Tensor) -> Tensor:
        """The smoothed input x', which the activation quantizers see; shaped like `x`."""
        scale, shift = self.transformation()
        return (x.to(self.dtype) - shift) / scale

    @torch.no_grad()
    def _initialize(self, x: Tensor) -> None:
        """Take from a first input what is not set yet."""
        if not x.numel():
            raise PipelineError(f"{self.name}: its first input is empty; give a picture")
        check_range(*x.aminmax(), self.name)
        if self.transforming and not self._scaled:
            self.set_scale(self.scale_of(x))
        if not all(quantizer.initialized for quantizer in self.weight_quantizers):
            self.set_weight_bounds()
        if not all(quantizer.initialized for quantizer in self.act_quantizers):
            self.take_activation_bounds(x)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        move = keeping_precision(fn)
        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        self.weight = move(self.weight)
        self.bias = None if self.bias is None else move(self.bias)
        return self

    def _load_from_state_dict(self, state: dict[str, Tensor], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state, prefix, *args)
        self._scaled |= prefix + "scale_factor" in state
