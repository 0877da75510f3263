"""Quantized layers in integers: the same function as the simulation, computed in int8.

With x' = (x - delta) / s, codes q of step dx and zero z, and symmetric weight codes of step dw, the
simulated layer is

    y = dx dw sum((q + z) w) + sum(W delta) + bias,

so sum((q + z) w) = sum(stored q times w) + (128 + z) sum(w), and all behind it are constants of the
output channel (spec 4.2). At the border of a convolution they depend on which taps are outside: x'
is padded with 0, of which q + z is 0, and so is the map of delta; hence a table by border class.
Where a layer is given a map that was padded before it, taps outside hold x = 0 instead, which is
the code of (0 - delta) / s, and delta counts there too.

A layer split along its input channels is one product for each half, summed in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import nn

from pipelines.contract import PipelineError
from pipelines.kernels.static_int8 import (
    OFFSET,
    quantize_channels,
    static_int8_conv,
    static_int8_linear,
)
from pipelines.passionsr.integer_tables import (
    bias_of,
    border_tables,
    exported_segments,
    quantizer_of,
    taps_inside,
)
from pipelines.passionsr.layer import QuantizedConv2d, QuantizedLinear
from pipelines.passionsr.segment import Segment
from pipelines.stable_diffusion.layers import CodeReader

Tensor = torch.Tensor


class ExactConstants(nn.Module):
    """Its constants keep their precision when a network is cast; they are in no state dict."""

    def constant(self, name: str, value: Tensor) -> None:
        """Keep a tensor under this name."""
        self.register_buffer(name, value.detach().contiguous(), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        before = {name: b for name, b in self._buffers.items() if b is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, exact in before.items():
            moved = self.get_buffer(name)
            if moved.dtype != exact.dtype:
                self._buffers[name] = exact.to(moved.device)
        return self


class IntegerLayer(ExactConstants, CodeReader):
    """What linear layers and convolutions share: the quantizer, and a product a segment.

    Attributes:
        dtype: Of the result where codes are given; casting a network casts it.
    """

    dtype: torch.dtype

    def __init__(self, segments: Sequence[Segment], dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.levels = segments[0].levels
        self.spans = [(segment.start, segment.stop) for segment in segments]
        self.constant("quantizer", torch.cat([quantizer_of(s) for s in segments], dim=1))

    def _tables(
        self, index: int, segment: Segment, weight: Tensor, correction: Tensor, bias: Tensor
    ) -> None:
        self.constant(f"weight_{index}", weight)
        self.constant(f"scales_{index}", segment.weight_steps * segment.input_step)
        self.constant(f"correction_{index}", correction.to(torch.int32))
        self.constant(f"bias_{index}", bias.to(torch.float32))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.quantizer.device)).dtype
        return self

    def _products(
        self,
        codes: Callable[[int, int], Tensor],
        residual: Tensor | None,
        dtype: torch.dtype,
        product: Callable[..., Tensor],
    ) -> Tensor:
        """Each segment's product adds to that of the one before it, in float32 between them."""
        total = residual
        for index, (start, stop) in enumerate(self.spans):
            last = index == len(self.spans) - 1
            names = ("weight", "scales", "correction", "bias")
            tables = (self.get_buffer(f"{name}_{index}") for name in names)
            total = product(codes(start, stop), *tables, total, dtype if last else torch.float32)
        assert total is not None
        return total


class IntegerLinear(IntegerLayer):
    """A quantized linear layer in int8."""

    @classmethod
    def from_layer(cls, layer: QuantizedLinear) -> Self:
        """The layer as it is now; its later changes do not follow.

        Raises:
            PipelineError: The layer is not in mode `fixed`, or not initialised.
        """
        segments = exported_segments(layer)
        integer = cls(segments, layer.weight.dtype)
        bias = bias_of(layer)
        for index, segment in enumerate(segments):
            codes = segment.weight_codes
            taps = codes.long().sum(dim=1)
            correction = (OFFSET + segment.zero) * taps
            original = layer.weight[:, segment.start : segment.stop]
            bias = bias + original.double() @ segment.offset.double()
            last = index == len(segments) - 1
            shown = bias if last else torch.zeros_like(bias)
            integer._tables(index, segment, codes, correction[None], shown[None])
        return integer

    def quantize(self, x: Tensor) -> Tensor:
        """Codes [..., K] int8 of x."""
        return quantize_channels(x, self.quantizer, self.levels)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """Linear layer of x [..., K], or of its codes, plus the residual [..., N]."""
        floating = x.is_floating_point()
        codes = self.quantize(x) if floating else x
        return self._products(
            lambda start, stop: codes[..., start:stop],
            residual,
            x.dtype if floating else self.dtype,
            static_int8_linear,
        )


class IntegerConv2d(IntegerLayer):
    """A quantized 1x1 or 3x3 convolution in int8.

    Attributes:
        kernel: 1 or 3.
        stride: 1 or 2.
        padding: (before, after) each axis; what was padded outside of the layer included.
    """

    kernel: int
    stride: int
    padding: tuple[int, int]

    @classmethod
    def from_layer(cls, layer: QuantizedConv2d, outside: tuple[int, int] = (0, 0)) -> Self:
        """The layer as it is now; its later changes do not follow.

        Args:
            layer: In mode `fixed`.
            outside: Zeros (before, after) each axis that the layer's input was padded with; the
                integer layer takes the map without them.

        Raises:
            PipelineError: The layer is not in mode `fixed`, not initialised, or of a shape that the
                kernels do not take.
        """
        inside = _check_shape(layer, outside)
        segments = exported_segments(layer)
        integer = cls(segments, layer.weight.dtype)
        integer.kernel, integer.stride = layer.weight.shape[2], layer.stride[0]
        integer.padding = (inside + outside[0], inside + outside[1])
        taps = taps_inside(integer.kernel, layer.weight.device)
        bias = bias_of(layer)[None]
        for index, segment in enumerate(segments):
            correction, shift = border_tables(layer, segment, taps, padded_before=any(outside))
            bias = bias + shift
            last = index == len(segments) - 1
            shown = bias if last else torch.zeros_like(bias)
            codes = segment.weight_codes.permute(0, 2, 3, 1)
            integer._tables(index, segment, codes, correction, shown)
        return integer

    def quantize(self, x: Tensor) -> Tensor:
        """Codes [B, C, h, w] int8 of x, in channels_last memory."""
        codes = quantize_channels(x.permute(0, 2, 3, 1).contiguous(), self.quantizer, self.levels)
        return codes.permute(0, 3, 1, 2)

    def forward(
        self, x: Tensor, residual: Tensor | None = None, *, size: Sequence[int] | None = None
    ) -> Tensor:
        """Convolution of x [B, C, h, w], or of its codes, plus the residual.

        With `size`, of x upsampled to the nearest neighbour first: h and w doubled, or one less.
        """
        floating = x.is_floating_point()
        codes = self.quantize(x) if floating else x
        size = list(codes.shape[2:] if size is None else size)

        def product(codes: Tensor, *tables: Any) -> Tensor:
            weight, scales, correction, bias, total, dtype = tables
            return static_int8_conv(
                codes, weight, scales, correction, bias, total, size, self.stride, self.padding,
                dtype,
            )  # fmt: skip

        return self._products(
            lambda start, stop: codes[:, start:stop],
            residual,
            x.dtype if floating else self.dtype,
            product,
        )


def _check_shape(layer: QuantizedConv2d, outside: tuple[int, int]) -> int:
    """Padding of the layer itself, on every side.

    Raises:
        PipelineError: The kernels do not take this convolution.
    """
    kernel, stride, padding = layer.weight.shape[2:], layer.stride, layer.padding
    known = (
        tuple(kernel) in ((1, 1), (3, 3))
        and stride[0] == stride[1] in (1, 2)
        and padding[0] == padding[1] <= kernel[0] // 2
        and tuple(layer.dilation) == (1, 1)
        and (not any(outside) or (kernel[0] == 3 and padding[0] == 0))
    )
    if not known:
        raise PipelineError(
            f"a convolution of {kernel[0]}x{kernel[1]}, stride {tuple(stride)} and padding "
            f"{tuple(padding)} has no int8 kernel: keep it out of make_integer"
        )
    return int(padding[0])
