"""Simulated quantization of linear layers and convolutions (PassionSR, spec 2.2 to 2.4).

The input is smoothed and shifted, input and weight are rounded to their grids, the layer computes
in floating point, and what the shift took is added back. Layers of float64 compute in float64, all
others in float32; the result has the dtype of the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import torch
import torch.nn.functional as F
from torch import nn

from pipelines.contract import PipelineError
from pipelines.passionsr.layer_state import LayerState
from pipelines.passionsr.let import convolved_shift
from pipelines.passionsr.modes import halves
from pipelines.passionsr.segment import Segment, make_segments
from pipelines.passionsr.settings import LayerSettings, Mode

__all__ = ["QuantizedConv2d", "QuantizedLayer", "QuantizedLinear", "Segment"]

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class _KeptWeight:
    """A quantized weight, and all that it was made from."""

    source: Tensor
    version: int
    state: Sequence[Tensor]
    weight: Tensor

    def holds(self, source: Tensor, state: Sequence[Tensor]) -> bool:
        """Whether it was made from these. A CUDA graph is captured with what was there before."""
        if source is not self.source or _version(source) != self.version:
            return False
        if source.is_cuda and torch.cuda.is_current_stream_capturing():
            return True
        return all(torch.equal(a, b) for a, b in zip(self.state, state, strict=True))


def _version(tensor: Tensor) -> int:
    """Counts changes in place, where torch does."""
    return 0 if tensor.is_inference() else tensor._version


class QuantizedLayer(LayerState):
    """A linear layer or convolution with quantized weight and input; the weight stays frozen.

    Attributes:
        quantizing: Compute with rounded values. Where False the function is the full-precision one.
    """

    def __init__(self, module: nn.Linear | nn.Conv2d, settings: LayerSettings) -> None:
        super().__init__(module, settings)
        self.quantizing = True
        self._kept: _KeptWeight | None = None

    @staticmethod
    def wrap(
        nn_module: nn.Module,
        weight_bits: int = 8,
        activation_bits: int = 8,
        split: bool = False,
        mode: Mode = "paper",
        s_alpha: float = 0.3,
    ) -> QuantizedLayer:
        """The quantized form of a layer, sharing its weights.

        The first call initializes scale and bounds from its input, unless they were set or loaded.

        Args:
            nn_module: nn.Linear, or nn.Conv2d without groups that pads with zeros.
            weight_bits: 2 to 8.
            activation_bits: 2 to 8.
            split: The halves of the input have ranges of their own.
            mode: `paper` as published, bugs included, or `fixed`.
            s_alpha: Exponent of the initial scale, 0 to 1.

        Raises:
            PipelineError: Another module, or a setting out of range.
        """
        settings = LayerSettings(
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            split=split,
            mode=mode,
            s_alpha=s_alpha,
        )
        if isinstance(nn_module, nn.Linear):
            return QuantizedLinear(nn_module, settings)
        if isinstance(nn_module, nn.Conv2d):
            return QuantizedConv2d(nn_module, settings)
        raise PipelineError(
            f"a {type(nn_module).__name__} cannot be quantized; give an nn.Linear or an nn.Conv2d"
        )

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() < 2 or x.shape[self.channels] != self.weight.shape[1]:
            raise PipelineError(
                f"{self.name}: an input of shape {tuple(x.shape)} does not have "
                f"{self.weight.shape[1]} channels"
            )
        y = self._compute(x.to(self.dtype))
        if self.transforming:
            y = y + self._product_of_shift(x.shape)
        return y.to(x.dtype)

    def _compute(self, x: Tensor) -> Tensor:
        """The layer of the transformed input."""
        bias = None if self.bias is None else self.bias.to(self.dtype)
        if not self.quantizing:
            scale, _ = self.transformation()
            return self._product(self.transformed(x), self.weight.to(self.dtype) * scale, bias)
        if not self.initialized:
            self._initialize(x)
        scale, shift = self.transformation()
        inputs = self.rules.quantize_input(self.act_quantizers, x, scale, shift, self.channels)
        if bias is not None and self.bias_quantizer is not None:
            bias = self.bias_quantizer(bias)
        return self._product(inputs, self._quantized_weight(scale), bias)

    def _quantized_weight(self, scale: Tensor) -> Tensor:
        """The smoothed weight on its grid; kept while no gradient is asked for."""
        if torch.is_grad_enabled() or scale.is_meta:
            self._kept = None
            return self._quantize_weight(scale)
        bounds = (chain(q.parameters(), q.buffers()) for q in self.weight_quantizers)
        state = [scale, *chain.from_iterable(bounds)]
        if self._kept is None or not self._kept.holds(self.weight, state):
            state = [tensor.clone() for tensor in state]
            weight = self._quantize_weight(scale)
            self._kept = _KeptWeight(self.weight, _version(self.weight), state, weight)
        return self._kept.weight

    def _quantize_weight(self, scale: Tensor) -> Tensor:
        quantizers = self.weight_quantizers
        parts = halves(self.weight.to(self.dtype) * scale, 1, len(quantizers))
        return torch.cat([q(part) for q, part in zip(quantizers, parts, strict=True)], dim=1)

    @torch.no_grad()
    def segments(self) -> list[Segment]:
        """What an integer kernel needs: one product, or one for each half of the input channels.

        Raises:
            PipelineError: Mode `paper`, or scale and bounds are not set yet.
        """
        if self.settings.mode != "fixed" or not self.initialized:
            raise PipelineError(
                f"{self.name}: only a layer of mode fixed whose bounds are set can be computed in "
                "integers; calibrate it, or load a calibration"
            )
        scale, shift = self.transformation()
        return make_segments(
            self.weight.to(self.dtype) * scale,
            scale.flatten(),
            shift.flatten(),
            self.weight_quantizers,
            self.act_quantizers,
        )

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        raise NotImplementedError

    def _product_of_shift(self, shape: Sequence[int]) -> Tensor:
        """The layer's product of the original weight with δ, for an input of that shape."""
        raise NotImplementedError


class QuantizedLinear(QuantizedLayer):
    """[..., C] -> [..., O]."""

    channels = -1

    def __init__(self, module: nn.Linear, settings: LayerSettings) -> None:
        super().__init__(module, settings)
        self.sign = self.rules.linear_sign

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    def _product_of_shift(self, shape: Sequence[int]) -> Tensor:
        return F.linear(self.offset[0], self.weight.to(self.dtype))


class QuantizedConv2d(QuantizedLayer):
    """[B, C, H, W] -> [B, O, H', W']."""

    channels = 1

    def __init__(self, module: nn.Conv2d, settings: LayerSettings) -> None:
        if module.groups != 1 or module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise PipelineError(
                f"{module} cannot be quantized; give a convolution without groups, with its "
                "padding in numbers, of zeros"
            )
        super().__init__(module, settings)
        self.stride, self.dilation = module.stride, module.dilation
        self.padding = module.padding

    def _product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation)

    def _product_of_shift(self, shape: Sequence[int]) -> Tensor:
        weight = self.weight.to(self.dtype)
        geometry = self.stride, self.padding, self.dilation
        return convolved_shift(self.offset, weight, shape[-2:], *geometry)
