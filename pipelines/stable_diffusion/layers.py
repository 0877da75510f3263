"""Layers that the UNet and the VAE share, each in its plain and its fused form.

A convolution that feeds a GroupNorm or a residual leaves its bias to the kernel behind it, so that
the bias is no pass of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from pipelines import kernels
from pipelines.diffusion.upsample import fold_upsample, upsample_conv
from pipelines.kernels import static_int8

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Fusion:
    """Which passes are kernels of their own.

    Attributes:
        norm: GroupNorm with SiLU and the bias before it.
        pointwise: GEGLU, and bias with residual.
    """

    norm: bool = False
    pointwise: bool = False


class CodeReader(nn.Module):
    """A layer in integers: it reads int8 codes, and makes them itself of a floating input.

    A norm or an activation before it that knows it writes the codes at once (the floating map never
    is), and a residual is added where the layer's own result is rounded.

    Attributes:
        quantizer: [3, C] float32: multiplier, offset and zero of every input channel, as in
            `pipelines.kernels.static_int8`.
        levels: The largest code.
    """

    quantizer: Tensor
    levels: int

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        raise NotImplementedError


def deferred_bias(conv: nn.Module, *, fused: bool) -> Tensor | None:
    """The bias [O] that the kernel behind `conv` is to add; None where `conv` adds its own.

    A layer with its adapter on a path of its own keeps its bias.
    """
    return conv.bias if fused and isinstance(conv, nn.Conv2d) else None


def convolve(conv: nn.Module, x: Tensor, deferred: Tensor | None) -> Tensor:
    """A convolution, without its bias where that is deferred."""
    if deferred is None:
        return torch.as_tensor(conv(x))
    assert isinstance(conv, nn.Conv2d)
    return F.conv2d(x, conv.weight, None, conv.stride, conv.padding)


def group_norm(
    norm: nn.GroupNorm,
    x: Tensor,
    shift: Tensor | None = None,
    *,
    silu: bool,
    fused: bool,
    reader: nn.Module | None = None,
) -> Tensor:
    """GroupNorm of x + shift, with SiLU if asked; the codes of it where `reader` reads codes.

    Only the fused form, and that of a reader of codes, takes a shift.
    """
    if isinstance(reader, CodeReader):
        return static_int8.group_norm_quantize(
            x, norm.num_groups, norm.weight, norm.bias, norm.eps, shift, silu,
            reader.quantizer, reader.levels,
        )  # fmt: skip
    if fused:
        return kernels.group_norm(x, norm.num_groups, norm.weight, norm.bias, norm.eps, shift, silu)
    x = norm(x)
    return F.silu(x, inplace=True) if silu else x


def read_codes(layers: Sequence[nn.Module]) -> list[CodeReader] | None:
    """These layers, if all of them read codes, of equally many levels."""
    readers = [layer for layer in layers if isinstance(layer, CodeReader)]
    alike = len(readers) == len(layers) and len({reader.levels for reader in readers}) == 1
    return readers if alike else None


def layer_norm_codes(norm: nn.LayerNorm, x: Tensor, readers: Sequence[CodeReader]) -> list[Tensor]:
    """Codes of the LayerNorm of x [..., C], one tensor for each of up to three readers."""
    quantizers = [reader.quantizer for reader in readers]
    levels = readers[0].levels
    codes = static_int8.layer_norm_quantize(x, norm.weight, norm.bias, norm.eps, quantizers, levels)
    return list(codes.unbind())


def add_residual(x: Tensor, residual: Tensor, shift: Tensor | None, *, fused: bool) -> Tensor:
    """Sum of x, residual and shift; may overwrite x."""
    return kernels.add_residual(x, residual, shift) if fused else x.add_(residual)


class Upsample(nn.Module):
    """Nearest upsampling, then a convolution; one transposed convolution once `fold` was called.

    `folded` follows `conv.weight` only when `fold` is called again.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.folded: Tensor | None = None

    def fold(self, dtype: torch.dtype) -> None:
        """Fold `conv.weight`, in its own precision, into a weight of `dtype`.

        In place if there is one already: it may be part of a captured graph.
        """
        weight = fold_upsample(self.conv.weight)
        if self.folded is None:
            memory_format = torch.channels_last
            if not self.conv.weight.is_contiguous(memory_format=memory_format):
                memory_format = torch.contiguous_format
            self.folded = torch.empty_like(weight, dtype=dtype, memory_format=memory_format)
        self.folded.copy_(weight)

    def forward(self, x: Tensor, size: Sequence[int]) -> Tensor:
        """[B, C, h, w] -> [B, C, *size]; folded where size is exactly double."""
        if isinstance(self.conv, CodeReader):
            return torch.as_tensor(self.conv(x, size=size))
        height, width = x.shape[-2:]
        if self.folded is not None and tuple(size) == (2 * height, 2 * width):
            return upsample_conv(x, self.folded, self.conv.bias)
        x = F.interpolate(x, size=tuple(size), mode="nearest")
        if self.folded is None:
            return torch.as_tensor(self.conv(x))
        return F.conv2d(x, self.conv.weight.to(x.dtype), self.conv.bias, padding=1)
