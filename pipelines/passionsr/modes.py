"""What mode `paper` does differently from mode `fixed`: one object each.

`paper` is the published program, whatever it does:

- The transformation of a linear layer has a wrong sign: x' = (x + δ) / s, yet W δ is added, so the
  output is off by 2 W δ.
- `split` cuts dimension 1 of the input. For [B, N, C] that is the tokens, while the halves of the
  weight are input channels; 77 text tokens fall into 38 and 39.
- For a 2-D input (time embedding) the initial scale uses one maximum over all channels.
- Weights are asymmetric, and no bound is kept in order or made to contain zero.
- The zero point divides by the step that the bounds had when they were initialized, a constant
  once they moved.
- The bias is quantized too: one range for all of it, at the bits of the weights.
- Attention has a scale for each key token, which ties a calibration to one size.
- Scale and ranges come from the first input seen, before the scale is final.

Its convolutions are right: x' = (x - δ) / s, and the product of δ with the original weight is
added.

`fixed` has the right sign, splits channels, keeps zero on every grid and bounds in order, has
symmetric weights, as integer kernels want them, leaves the bias alone and scales no tokens. Ranges
are to be set from statistics; a layer that was given none also takes them from its first input.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from pipelines.passionsr.lbq import (
    ActivationQuantizer,
    BoundaryQuantizer,
    Quantizer,
    SymmetricQuantizer,
)
from pipelines.passionsr.settings import Mode

Tensor = torch.Tensor


class Rules(Protocol):
    """Where the modes differ. `channels` is the dimension of the input that holds them."""

    linear_sign: float
    """Sign of δ in x' = (x - sign δ) / s of linear layers."""
    scales_tokens: bool
    """Attention has a scale for each key token."""

    def split_dimension(self, channels: int) -> int:
        """Dimension along which an input falls into halves."""

    def input_maximum(self, x: Tensor, channels: int) -> Tensor:
        """max|x| of each channel [C], or one for all []."""

    def weight_quantizer(self, bits: int, template: Tensor) -> Quantizer:
        """Quantizer of weights with bounds like `template`."""

    def activation_quantizer(self, bits: int, template: Tensor) -> Quantizer:
        """Quantizer of activations, of the dtype and on the device of `template`."""

    def bias_quantizer(self, bits: int, template: Tensor) -> Quantizer | None:
        """Quantizer of the bias, None where it stays as it is."""

    def quantize_input(
        self,
        quantizers: Sequence[Quantizer],
        x: Tensor,
        scale: Tensor,
        offset: Tensor,
        channels: int,
    ) -> Tensor:
        """Dequantized value of (x - offset) / scale, each half by its own quantizer."""


def _channel_maximum(x: Tensor, channels: int) -> Tensor:
    return x.abs().movedim(channels, 0).flatten(1).amax(1)


class Paper:
    """The published program."""

    linear_sign = -1.0
    scales_tokens = True

    def split_dimension(self, channels: int) -> int:
        return 1

    def input_maximum(self, x: Tensor, channels: int) -> Tensor:
        return x.abs().amax() if x.dim() == 2 else _channel_maximum(x, channels)

    def weight_quantizer(self, bits: int, template: Tensor) -> Quantizer:
        return BoundaryQuantizer(2**bits - 1, template)

    def activation_quantizer(self, bits: int, template: Tensor) -> Quantizer:
        return BoundaryQuantizer(2**bits - 1, template.new_zeros(()))

    def bias_quantizer(self, bits: int, template: Tensor) -> Quantizer | None:
        return BoundaryQuantizer(2**bits - 1, template.new_zeros(()))

    def quantize_input(
        self,
        quantizers: Sequence[Quantizer],
        x: Tensor,
        scale: Tensor,
        offset: Tensor,
        channels: int,
    ) -> Tensor:
        parts = halves((x - offset) / scale, 1, len(quantizers))
        return torch.cat([q(part) for q, part in zip(quantizers, parts, strict=True)], dim=1)


class Fixed:
    """The corrected rules."""

    linear_sign = 1.0
    scales_tokens = False

    def split_dimension(self, channels: int) -> int:
        return channels

    def input_maximum(self, x: Tensor, channels: int) -> Tensor:
        return _channel_maximum(x, channels)

    def weight_quantizer(self, bits: int, template: Tensor) -> Quantizer:
        return SymmetricQuantizer(2**bits - 2, template)

    def activation_quantizer(self, bits: int, template: Tensor) -> Quantizer:
        return ActivationQuantizer(2**bits - 1, template)

    def bias_quantizer(self, bits: int, template: Tensor) -> Quantizer | None:
        return None

    def quantize_input(
        self,
        quantizers: Sequence[Quantizer],
        x: Tensor,
        scale: Tensor,
        offset: Tensor,
        channels: int,
    ) -> Tensor:
        parts = (halves(whole, channels, len(quantizers)) for whole in (x, scale, offset))
        quantized = [q(*part) for q, *part in zip(quantizers, *parts, strict=True)]
        return torch.cat(quantized, dim=channels)


RULES: dict[Mode, Rules] = {"paper": Paper(), "fixed": Fixed()}


def halves(x: Tensor, dimension: int, parts: int) -> Sequence[Tensor]:
    """`x` itself, or its two halves along `dimension`, the first one rounded down."""
    if parts == 1:
        return [x]
    middle = x.shape[dimension] // 2
    return x.tensor_split([middle], dim=dimension)
