"""Quantize the networks of a loaded pipeline: what OSEDiff and S3Diff share.

The networks are built in float32, wrapped and given bounds; then they compute in simulation, or
their layers become integer ones, and what stays floating is cast to the pipeline's own precision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from pipelines.contract import PipelineError, WeightsSource
from pipelines.passionsr.calibration.set import CalibrationSet, Crop, SetSettings
from pipelines.passionsr.checkpoint import (
    Expected,
    QuantizationFacts,
    load_quantization,
    read_facts,
)
from pipelines.passionsr.choices import INTEGER_BITS, Method, QuantizationChoices
from pipelines.passionsr.fp8 import fp8_supported
from pipelines.passionsr.integer import make_integer
from pipelines.passionsr.layer import QuantizedLayer
from pipelines.passionsr.network import (
    Kind,
    NetworkSettings,
    quantize_network,
    quantized_attentions,
)
from pipelines.passionsr.published_pair import load_pair
from pipelines.passionsr.settings import LayerSettings
from pipelines.passionsr.statistics import initialise
from pipelines.stable_diffusion.layers import CodeReader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipelines.passionsr.bill import Plan
    from pipelines.stable_diffusion.device import Card

Computed = Literal["simulated", "int8", "fp8"]
Layers = dict[str, dict[str, QuantizedLayer]]
"""Component (`unet`, `vae`) -> diffusers' path -> layer."""
Paint = Callable[["NDArray[np.uint8]", int], None]
"""Sends a low-resolution picture [h, w, 3] through the pipeline, with a seed of the noise."""

SHIPPED = Path(__file__).parent / "mini"
"""Calibrations of the package's small models, `<system>-w8a8.safetensors`."""
SCALE = 4
_SIDE = 480
"""Of the crops below: 120 px at x4, which OSEDiff enlarges to its least, 128."""
_PHOTOGRAPHS = (
    ("motorcycle_left.png", 10, 130),
    ("camera.png", 16, 16),
    ("hubble_deep_field.jpg", 196, 260),
    ("ihc.png", 16, 16),
)
"""File of scikit-image (none under conditions), first row and column of its crop. None is an input
of `srbench run`: nothing is measured on what it was calibrated with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """What became of the networks.

    Attributes:
        plan: Component -> diffusers' path of a quantized layer -> how it is quantized.
        settings: Of every one of them.
        computed: How they compute.
        reason: Why so.
        became: Arithmetic -> layers.
        calibration: Where scales and bounds are from, in words.
    """

    plan: Plan
    settings: LayerSettings
    computed: Computed
    reason: str
    became: Mapping[str, int]
    calibration: str


def choose_arithmetic(
    choices: QuantizationChoices, device: torch.device, card: Card
) -> tuple[Computed, str]:
    """How quantized layers compute on a device, and why.

    On the meta device, where work is counted, as on a card that has it all.
    """
    asked, real = choices.arithmetic, device.type == "meta" or card.has_kernels
    if choices.BITS != INTEGER_BITS:
        return "simulated", f"no card multiplies {choices.BITS} bits: accuracy only"
    if choices.is_published:
        return "simulated", "mode paper: the published function in float32, accuracy only"
    if asked == "simulated":
        return "simulated", "asked for"
    if asked == "auto" and not real:
        return "simulated", f"int8 kernels need a card of sm80 or later; here {card.remark}"
    where = card.remark if real else f"{card.remark}, exact and slower than full precision"
    if asked == "fp8":
        if lacking := fp8_supported(device):
            return "int8", f"fp8 asked for, but {lacking}; {where}"
        return "fp8", f"linear layers, convolutions in int8; {where}"
    return "int8", where


def shipped_calibration(system: str, bits: int, digest: str) -> Path | None:
    """The calibration that comes with the package for these weights; None where none does."""
    path = SHIPPED / f"{system}-w{bits}a{bits}.safetensors"
    return path if path.is_file() and read_facts(path).weights_digest == digest else None


def install(
    networks: Mapping[str, nn.Module],
    choices: QuantizationChoices,
    system: str,
    weights: WeightsSource | None,
    paint: Paint,
    configs: Mapping[str, Mapping[str, Any]],
    settings: LayerSettings | None = None,
) -> tuple[Layers, LayerSettings, str]:
    """Replace layers by quantized ones in simulation, and give them scales and bounds.

    Args:
        networks: `unet` and `vae` in float32, changed in place.
        choices: Of the user.
        system: `osediff` or `s3diff`.
        weights: What was loaded; None on the meta device, where bounds have no numbers.
        paint: Sends pictures through the networks while ranges are taken.
        configs: The snapshot's, of `unet` and `vae`.
        settings: Of the layers, where they are known already.

    Returns:
        The layers, how each is quantized, and where scales and bounds are from.

    Raises:
        PipelineError: The calibration is missing, damaged, or of other bits, weights or networks;
            or a layer's input has no range.
    """
    plain = LayerSettings(
        weight_bits=choices.BITS,
        activation_bits=choices.BITS,
        mode="paper" if choices.is_published else "fixed",
    )
    if weights is None:
        layers = _wrap(networks, choices.networks, settings or plain)
        for layer in _each(layers):
            layer.mark_initialized()
        for name in layers:
            for attention in quantized_attentions(networks[name]).values():
                attention.mark_initialized()
        return layers, settings or plain, "none: only counted"
    path = Path(choices.quantization).expanduser() if choices.quantization else None
    if path is not None and choices.is_published:
        layers = _wrap(networks, choices.networks, plain)
        return layers, plain, load_pair(path, networks, layers, configs)
    if path is None and choices.METHOD == "dqc":
        path = shipped_calibration(system, choices.BITS, weights.digest)
    if path is not None:
        return _from_file(path, networks, choices, system, weights)
    layers = _wrap(networks, choices.networks, plain)
    pictures = calibration_pictures()

    def run() -> None:
        for seed, picture in enumerate(pictures):
            paint(picture, seed)

    method: Method = "maxmin" if choices.METHOD == "maxmin" else "smoothquant"
    flat = {f"{name}.{path}": each for name, part in layers.items() for path, each in part.items()}
    initialise(flat, run, method)
    return layers, plain, _told(method, len(pictures))


def calibration_pictures() -> list[NDArray[np.uint8]]:
    """Low-resolution pictures [120, 120, 3] of the photographs that scikit-image has, degraded.

    Raises:
        PipelineError: scikit-image is not installed.
    """
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise PipelineError(
            "ranges are taken of scikit-image's photographs, which is not installed; install it, "
            "or give quantization=FILE"
        )
    folder = Path(spec.origin).parent / "data"
    crops = tuple(Crop(folder / name, top, left, 0) for name, top, left in _PHOTOGRAPHS)
    settings = SetSettings(images=len(crops), side=_SIDE, scale=SCALE)
    crops = tuple(replace(crop, seed=seed) for seed, crop in enumerate(crops))
    found = CalibrationSet(settings, crops)
    return [found.pair(number).lr for number in range(len(found))]


def compute_in(
    computed: Computed, networks: Mapping[str, nn.Module], layers: Layers
) -> dict[str, int]:
    """Turn layers into integer ones where that is asked for; arithmetic -> layers."""
    if computed == "simulated":
        return {computed: sum(1 for _ in _each(layers))}
    became: Counter[str] = Counter()
    for name, part in layers.items():
        became.update(make_integer(networks[name], part, arithmetic=computed).values())
    return dict(became)


def cast_rest(network: nn.Module, dtype: torch.dtype, kept: Iterable[str]) -> None:
    """Cast what is not quantized; the constants of quantized layers stay exact.

    Args:
        network: UNet or VAE.
        dtype: Of everything else.
        kept: Paths of layers that stay float32.
    """
    exact = tuple(f"{path}." for path in kept)
    for path, module in network.named_modules():
        if isinstance(module, QuantizedLayer):
            exact += (f"{path}.",)
        elif isinstance(module, CodeReader):
            module.to(dtype)
        elif not f"{path}.".startswith(exact):
            module._apply(
                lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor,
                recurse=False,
            )


def _each(layers: Layers) -> Iterable[QuantizedLayer]:
    return (layer for part in layers.values() for layer in part.values())


def _wrap(networks: Mapping[str, nn.Module], names: Iterable[str], layer: LayerSettings) -> Layers:
    wrapped: Layers = {}
    for name in names:
        kind: Kind = "unet" if name == "unet" else "vae"
        wrapped[name] = quantize_network(networks[name], NetworkSettings.of_mode(kind, layer))
    return wrapped


def _from_file(
    path: Path,
    networks: Mapping[str, nn.Module],
    choices: QuantizationChoices,
    system: str,
    weights: WeightsSource,
) -> tuple[Layers, LayerSettings, str]:
    facts = read_facts(path)
    settings = LayerSettings(
        weight_bits=choices.BITS,
        activation_bits=choices.BITS,
        split=facts.split,
    )
    if not set(choices.networks) <= set(facts.components):
        raise PipelineError(
            f"{path}: calibrated for the {'+'.join(facts.components)} alone; set "
            f"components={'+'.join(facts.components)}"
        )
    before = {name: dict(networks[name].named_modules()) for name in facts.components}
    layers = _wrap(networks, facts.components, settings)
    expected = Expected(settings=settings, system=system, weights_digest=weights.digest)
    load_quantization(path, layers, expected)
    for layer in _each(layers):
        layer.quantizing = True
    for name in set(layers) - set(choices.networks):
        _put_back(networks[name], before[name])
        del layers[name]
    return layers, settings, _told_file(path, facts)


def _put_back(network: nn.Module, before: Mapping[str, nn.Module]) -> None:
    for path, module in list(network.named_modules()):
        if isinstance(module, QuantizedLayer):
            parent, _, name = path.rpartition(".")
            network.get_submodule(parent).register_module(name, before[path])


def _told(method: Method, pictures: int) -> str:
    how = "neither smoothed nor learned" if method == "maxmin" else "smoothed, nothing learned"
    return f"least and greatest values, {how}; at load, of {pictures} photographs of scikit-image"


def _told_file(path: Path, facts: QuantizationFacts) -> str:
    images = facts.calibration.get("images")
    shipped = "shipped " if path.parent == SHIPPED else ""
    of = f", of {images} pictures" if images is not None else ""
    return f"{shipped}{path.name} ({facts.method}, mode {facts.mode}{of})"
