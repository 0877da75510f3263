"""What an integer layer needs beside its weight codes: quantizer, corrections, border tables."""

from __future__ import annotations

import torch

from pipelines.contract import PipelineError
from pipelines.kernels.static_int8 import BORDER_CLASSES, OFFSET, quantize_channels
from pipelines.passionsr.layer import QuantizedConv2d, QuantizedLayer
from pipelines.passionsr.segment import Segment

Tensor = torch.Tensor


def quantizer_of(segment: Segment) -> Tensor:
    """[3, C] float32, as `pipelines.kernels.static_int8` takes it."""
    zero = torch.full_like(segment.multiplier, segment.zero)
    return torch.stack([segment.multiplier, segment.offset, zero])


def bias_of(layer: QuantizedLayer) -> Tensor:
    """[O] float64."""
    if layer.bias is None:
        return layer.weight.new_zeros(layer.weight.shape[0], dtype=torch.float64)
    return layer.bias.detach().double()


def exported_segments(layer: QuantizedLayer) -> list[Segment]:
    """Of a layer that can be exported; on the meta device shapes only.

    Raises:
        PipelineError: It cannot.
    """
    if layer.settings.mode != "fixed":
        raise PipelineError(
            f"a layer of mode {layer.settings.mode!r} has no integer form: its weights are not "
            "symmetric; quantize with mode 'fixed'"
        )
    if layer.weight.is_meta:
        return _shapes(layer)
    if not layer.initialized:
        raise PipelineError(
            "a quantized layer has no bounds yet: calibrate it or load its checkpoint before it is "
            "turned into integers"
        )
    numbers = (layer.weight, layer.bias, *layer.parameters())
    if not all(bool(x.isfinite().all()) for x in numbers if x is not None):
        raise PipelineError(
            f"{layer.name}: its weight, bias, scale or bounds are not finite, which integers would "
            "hide; look at the weights and at the calibration"
        )
    return layer.segments()


def _shapes(layer: QuantizedLayer) -> list[Segment]:
    outputs, inputs = layer.weight.shape[:2]
    middle = inputs // 2 if layer.settings.split else inputs
    spans = [(0, middle), (middle, inputs)] if layer.settings.split else [(0, inputs)]
    empty = layer.weight.new_empty
    return [
        Segment(
            start=start,
            stop=stop,
            multiplier=empty(stop - start, dtype=torch.float32),
            offset=empty(stop - start, dtype=torch.float32),
            zero=0,
            levels=2**layer.settings.activation_bits - 1,
            input_step=empty((), dtype=torch.float32),
            weight_codes=torch.empty_like(layer.weight[:, start:stop], dtype=torch.int8),
            weight_steps=empty(outputs, dtype=torch.float32),
        )
        for start, stop in spans
    ]


def taps_inside(kernel: int, device: torch.device) -> Tensor:
    """Of every border class: [classes, k, k] bool."""
    if kernel == 1:
        return torch.ones(1, 1, 1, dtype=torch.bool, device=device)
    bits = torch.arange(BORDER_CLASSES, device=device)[:, None] >> torch.arange(4, device=device)
    first_row, last_row, first_column, last_column = (bits & 1 == 0).unbind(1)
    middle = torch.ones_like(first_row)
    rows = torch.stack([first_row, middle, last_row], dim=1)
    columns = torch.stack([first_column, middle, last_column], dim=1)
    return rows[:, :, None] & columns[:, None, :]


def border_tables(
    layer: QuantizedConv2d, segment: Segment, taps: Tensor, *, padded_before: bool
) -> tuple[Tensor, Tensor]:
    """Integer correction and shift, both [classes, O], of one segment."""
    codes = segment.weight_codes.double()  # integers far below 2^53
    inside = taps.double()
    sums = codes.sum(dim=1) * (OFFSET + segment.zero)
    correction = torch.einsum("bij,oij->bo", inside, sums)
    original = layer.weight[:, segment.start : segment.stop].double()
    moved = torch.einsum("ocij,c->oij", original, segment.offset.double())
    if not padded_before:
        return correction, torch.einsum("bij,oij->bo", inside, moved)
    black = torch.einsum("ocij,c->oij", codes, _of_zero(segment))
    correction += torch.einsum("bij,oij->bo", 1 - inside, black)
    return correction, moved.sum(dim=(1, 2))[None].expand(taps.shape[0], -1)


def _of_zero(segment: Segment) -> Tensor:
    """Code + zero of x = 0 in every channel: [C] float64."""
    origin = torch.zeros_like(segment.multiplier)
    stored = quantize_channels(origin, quantizer_of(segment), segment.levels)
    return stored.double() + (OFFSET + segment.zero)
