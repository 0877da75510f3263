"""Smoothing scales and bounds from what flows through the layers: the start of every calibration.

In mode `fixed` statistics are taken with everything in full precision and of all pictures, before
anything follows from them. Smoothing is monotonous in each channel, so the ranges of smoothed
activations follow from those of the channels exactly, without a pass of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from pipelines.contract import PipelineError
from pipelines.passionsr.attention import QuantizedAttention
from pipelines.passionsr.choices import Method
from pipelines.passionsr.layer import QuantizedLayer
from pipelines.passionsr.lbq import BoundaryQuantizer, check_range
from pipelines.passionsr.let import smoothing_scale
from pipelines.passionsr.modes import halves

Layers = Mapping[str, QuantizedLayer]
Run = Callable[[], None]
"""Sends all pictures through the networks."""
Watch = Callable[[str, torch.Tensor], None]

_TRIED_ON = 2
"""Inputs of a layer that its start is chosen by."""
_SCALE_MOMENTUM, _BOUND_MOMENTUM = 0.1, 0.05
"""Share of a later batch in the published statistics."""


@dataclass(frozen=True, slots=True)
class Start:
    """Scale and shift of a layer as functions of its channels' ranges.

    Attributes:
        alpha: Exponent of the scale, the same for x and W as published; 0 scales nothing.
        centred: Shift each channel to the middle of its range.
    """

    alpha: float
    centred: bool


STARTS = tuple(Start(alpha, centred) for centred in (False, True) for alpha in (0.3, 0.5, 0.7))


@torch.no_grad()
def initialise(layers: Layers, run: Run, method: Method) -> None:
    """Set scales, shifts and bounds of layers of mode `fixed`, and let them quantize.

    Args:
        layers: Path -> layer; whatever they had is forgotten.
        run: Called once, for `dqc` twice.
        method: `maxmin`: least and greatest value, nothing smoothed. `smoothquant`: channels are
            scaled by s = (max|x| / max|W|)^s_alpha first. `dqc`, what learning starts with: each
            layer takes that of `STARTS` whose output errs least.

    Raises:
        PipelineError: The input of a layer is no number, infinite or constant, or never came.
    """
    for layer in layers.values():
        layer.quantizing = layer.transforming = False
        layer.mark_initialized()
    ranges = _channel_ranges(layers, run)
    starts = _chosen(layers, run, ranges) if method == "dqc" else {}
    for path, layer in layers.items():
        alpha = layer.settings.s_alpha if method == "smoothquant" else 0.0
        layer.quantizing = layer.transforming = True
        _set(layer, ranges[path], starts.get(path, Start(alpha, centred=False)))


@torch.no_grad()
def initialise_published(layers: Mapping[str, nn.Module], batches: Sequence[Run]) -> None:
    """The published statistics of mode `paper`: everything quantizes meanwhile.

    The first batch sets every scale and bound. Each later one moves the scales by a tenth towards
    its own, and the bounds of attention by a twentieth; layers keep the bounds of the first batch
    although their scales move, as published.

    Args:
        layers: Path -> quantized layer or attention block.
        batches: Calls that each send some pictures through the networks.
    """
    first, *others = batches
    first()
    plain = {path: layer for path, layer in layers.items() if isinstance(layer, QuantizedLayer)}
    blocks = {path: each for path, each in layers.items() if isinstance(each, QuantizedAttention)}
    operands = {
        f"{path}.{name}": quantizer
        for path, block in blocks.items()
        for name, quantizer in block.named_children()
        if isinstance(quantizer, BoundaryQuantizer)
    }
    peaks: dict[str, torch.Tensor] = {}

    def move_scale(path: str, x: torch.Tensor) -> None:
        layer = plain[path]
        layer.set_scale(torch.lerp(layer.scale_factor, layer.scale_of(x), _SCALE_MOMENTUM))

    def move_bounds(path: str, x: torch.Tensor) -> None:
        low, high = x.aminmax()
        operands[path].x_min.lerp_(low, _BOUND_MOMENTUM)
        operands[path].x_max.lerp_(high, _BOUND_MOMENTUM)
        whole = (0, 1, 3) if path.endswith("_v") else (0, 1, 2)
        peaks[path] = x.abs().amax(whole)

    with watching(plain, move_scale), watching(operands, move_bounds):
        for run in others:
            run()
            for path, block in blocks.items():
                _move_attention(block, *(peaks[f"{path}.act_quantizer_{o}"] for o in "kqvw"))


def _move_attention(
    block: QuantizedAttention, k: torch.Tensor, q: torch.Tensor, v: torch.Tensor, w: torch.Tensor
) -> None:
    """A tenth towards the scales of a batch, from the peaks of its smoothed operands.

    Args:
        block: Of mode `paper`.
        k: max|k| of each element of a head; `q` likewise.
        q: See `k`.
        v: max|v| of each key token; `w`, of the softmax, likewise.
        w: See `v`.
    """
    for scale, divided, multiplied in (
        (block.scale_factor_qk, k, q),
        (block.scale_factor_vw, v, w),
    ):
        own = smoothing_scale(divided * scale, multiplied / scale, block.settings.s_alpha)
        scale.lerp_(own, _SCALE_MOMENTUM)


@contextmanager
def watching(layers: Mapping[str, nn.Module], watch: Watch) -> Iterator[None]:
    """Show `watch` the path and input of each layer before it computes."""

    def hook(path: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], None]:
        return lambda module, inputs: watch(path, inputs[0])

    handles = [layer.register_forward_pre_hook(hook(path)) for path, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _channel_ranges(layers: Layers, run: Run) -> dict[str, torch.Tensor]:
    """Least and greatest value of each input channel, [2, C]."""
    found: dict[str, torch.Tensor] = {}

    def watch(path: str, x: torch.Tensor) -> None:
        layer = layers[path]
        low, high = x.to(layer.dtype).movedim(layer.channels, 0).flatten(1).aminmax(dim=1)
        if path in found:
            low, high = torch.minimum(low, found[path][0]), torch.maximum(high, found[path][1])
        found[path] = torch.stack([low, high])

    with watching(layers, watch):
        run()
    for path in layers:
        if path not in found:
            raise PipelineError(f"{path}: no picture of the calibration reached this layer")
        check_range(*found[path].aminmax(), path)
    return found


def _chosen(layers: Layers, run: Run, ranges: Mapping[str, torch.Tensor]) -> dict[str, Start]:
    """The start of each layer whose output errs least on the first few inputs."""
    errors = {path: [0.0] * len(STARTS) for path in layers}
    seen = dict.fromkeys(layers, 0)

    def watch(path: str, x: torch.Tensor) -> None:
        if seen[path] == _TRIED_ON:
            return
        seen[path] += 1
        layer = layers[path]
        wanted = layer.forward(x)
        layer.quantizing = layer.transforming = True
        for number, start in enumerate(STARTS):
            _set(layer, ranges[path], start)
            errors[path][number] += float((layer.forward(x) - wanted).square().mean())
        layer.quantizing = layer.transforming = False

    with watching(layers, watch):
        run()
    return {path: STARTS[tried.index(min(tried))] for path, tried in errors.items()}


def _set(layer: QuantizedLayer, channels: torch.Tensor, start: Start) -> None:
    """Scale, shift, and the bounds that the smoothed input and weight then have.

    Args:
        layer: Of mode `fixed`, transforming.
        channels: Least and greatest value of each channel, [2, C].
        start: How.
    """
    shift = channels.mean(0) if start.centred else torch.zeros_like(channels[0])
    peak = (channels - shift).abs().amax(0)
    scale = smoothing_scale(peak, layer.weight_maximum(), start.alpha)
    layer.set_scale(scale.view_as(layer.scale_factor))
    layer.offset.copy_(shift.view_as(layer.offset))
    layer.set_weight_bounds()
    smoothed = halves((channels - shift) / scale, 1, 1 + layer.settings.split)
    layer.set_activation_bounds(
        tuple(part[0].amin() for part in smoothed), tuple(part[1].amax() for part in smoothed)
    )
