"""Read the quantized checkpoints that PassionSR's program saves (`*_ckpt_merge_saw_sep.pth`).

One `torch.save`d state dict a component, LDM's names, mode `paper`: scales, shifts and bounds of
every layer, the attention blocks' scales and bounds, and the norms as they were. Released files
have one `model.` before each key where the program's last revision expects two, and then loads
nothing without a word. Here any prefix will do, and every key that has no counterpart is told.

A file does not say how many bits its bounds are for: nothing in it can be checked against the
layers' own.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines.contract import PipelineError
from pipelines.passionsr.attention import QuantizedAttention
from pipelines.passionsr.layer import QuantizedLayer
from pipelines.passionsr.lbq import Quantizer
from pipelines.passionsr.names import ldm_names
from pipelines.passionsr.network import (
    Kind,
    NetworkSettings,
    learned_parameters,
    quantize_network,
    quantized_attentions,
)
from pipelines.stable_diffusion.architecture import published_json
from pipelines.stable_diffusion.checkpoint_files import read_pickle
from pipelines.stable_diffusion.options import TIMESTEP
from pipelines.stable_diffusion.unet import UNet
from pipelines.stable_diffusion.vae import Vae

Tensor = torch.Tensor
_LOG = logging.getLogger(__name__)
_SHOWN = 3
_TOKENS = "scale_factor_vw"
"""One scale a key token: its length is that of the pictures it was calibrated with."""
_SAME_NORM = 1e-3
"""Largest relative difference of a norm that went through half precision."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a file had in common with a network. Names are LDM's, without the prefix.

    Attributes:
        path: The file.
        prefix: What its keys begin with.
        loaded: Tensors that found their place.
        missing: Tensors of the network that the file does not have.
        unexpected: Keys of the file, as they stand there, that the network does not have.
        other_norms: Norms that the file has with other numbers than the network had: it was
            calibrated beside other weights.
    """

    path: Path
    prefix: str
    loaded: int
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    other_norms: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """One line."""
        return (
            f"{self.path}: {self.loaded} tensors loaded (prefix '{self.prefix}'), "
            f"{len(self.missing)} missing, {len(self.unexpected)} unexpected, "
            f"{len(self.other_norms)} norms of other weights; a file does not tell its bits"
        )

    @property
    def listing(self) -> str:
        """The summary and a line for every key in it."""
        groups = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("other norm", self.other_norms),
        )
        return "\n".join(
            [self.summary, *(f"{what}: {key}" for what, keys in groups for key in keys)]
        )


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a tensor of a file goes: a parameter of a module."""

    module: nn.Module
    key: str
    tensor: Tensor

    @property
    def is_norm(self) -> bool:
        return isinstance(self.module, nn.GroupNorm | nn.LayerNorm)


def load_published(
    path: Path, network: UNet | Vae, layers: Mapping[str, QuantizedLayer], config: Mapping[str, Any]
) -> Report:
    """Put a published file into a network quantized in mode `paper`.

    As the published loader does, tensors are shaped to fit where only ones differ (the file's VAE
    attention is made of 1x1 convolutions), scales of tokens take the file's length, and norms are
    overwritten. A quantizer whose bounds are missing is initialized by the next picture. What did
    not fit is logged as a warning, a line a key.

    Args:
        path: File of `torch.save`.
        network: UNet or whole VAE.
        layers: What `quantize_network` returned for it.
        config: The snapshot's `unet/config.json` or `vae/config.json`.

    Raises:
        PipelineError: Not such a file, one of another network, or impossible values in it; or the
            network is in mode `fixed`. Nothing is changed then.
    """
    places = _places(network, layers, config)
    report, found = _match(path, places)
    changed = (
        name
        for name, tensor in found.items()
        if places[name].is_norm and _differs(tensor, places[name].tensor)
    )
    report = replace(report, other_norms=tuple(changed))
    for module in network.modules():
        if isinstance(module, Quantizer):
            module.initialized = False
    for module in {place.module for place in places.values()}:
        # All of a module at once: a quantizer is initialized by its bounds together.
        state = {p.key: found[n] for n, p in places.items() if p.module is module and n in found}
        module.load_state_dict(state, strict=False)
    if report.missing or report.unexpected or report.other_norms:
        _LOG.warning("%s", report.listing)
    return report


def compare_published(path: Path, kind: Kind) -> Report:
    """Match a file's names and shapes against the published sizes; nothing is loaded.

    Raises:
        PipelineError: See `load_published`.
    """
    config = published_json(f"{kind}/config.json")
    with torch.device("meta"):
        network = UNet(config, TIMESTEP) if kind == "unet" else Vae(config)
        layers = quantize_network(network, NetworkSettings.published(kind, bits=8))
    return _match(path, _places(network, layers, config))[0]


def _places(
    network: UNet | Vae, layers: Mapping[str, QuantizedLayer], config: Mapping[str, Any]
) -> dict[str, _Place]:
    """LDM's name of everything that a published file of this network holds -> where it goes."""
    if any(layer.settings.mode != "paper" for layer in layers.values()):
        raise PipelineError(
            "a published file holds bounds of mode paper; quantize the network in that mode"
        )
    quantized: dict[str, QuantizedLayer | QuantizedAttention] = dict(layers)
    quantized |= quantized_attentions(network)
    places = {
        (path, key): _Place(module, key, parameter)
        for path, module in quantized.items()
        for key, parameter in learned_parameters(module).items()
    }
    places |= {
        (path, key): _Place(module, key, parameter)
        for path, module in network.named_modules()
        if isinstance(module, nn.GroupNorm | nn.LayerNorm)
        for key, parameter in module.named_parameters()
    }
    kind: Kind = "unet" if isinstance(network, UNet) else "vae"
    names = ldm_names({path for path, _ in places}, kind, config)
    return {f"{names[path]}.{key}": place for (path, key), place in places.items()}


def _match(path: Path, places: Mapping[str, _Place]) -> tuple[Report, dict[str, Tensor]]:
    """Tensors of a file by LDM's name, in the shapes of their places."""
    if not path.is_file():
        raise PipelineError(f"{path}: no such file; give PassionSR's *_ckpt_merge_saw_sep.pth")
    content = {str(key): value for key, value in read_pickle(path).items()}
    prefix = _prefix(path, content, places)
    found = {
        key.removeprefix(prefix): value
        for key, value in content.items()
        if key.startswith(prefix) and key.removeprefix(prefix) in places
    }
    problems = [p for name, value in found.items() if (p := _problem(name, value, places[name]))]
    problems = problems or _empty_ranges(found)
    if problems:
        rest = len(problems) - _SHOWN
        more = f" and {rest} more" if rest > 0 else ""
        raise PipelineError(f"{path}: {'; '.join(problems[:_SHOWN])}{more}; nothing was loaded")
    report = Report(
        path=path,
        prefix=prefix,
        loaded=len(found),
        missing=tuple(name for name in places if name not in found),
        unexpected=tuple(key for key in content if key.removeprefix(prefix) not in found),
    )
    shaped = {
        name: value.float() if name.endswith(_TOKENS) else value.float().view(place.tensor.shape)
        for name, value in found.items()
        if (place := places[name])
    }
    return report, shaped


def _prefix(path: Path, content: Mapping[str, Any], places: Mapping[str, _Place]) -> str:
    """What most keys that end in a known name begin with."""
    prefixes: Counter[str] = Counter()
    for key in content:
        parts = key.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in places:
                prefixes["".join(f"{part}." for part in parts[:cut])] += 1
                break
    if not prefixes:
        raise PipelineError(
            f"{path}: none of its {len(content)} keys names a layer of this network; it is of the "
            "other component, or of another model"
        )
    return prefixes.most_common(1)[0][0]


def _problem(name: str, value: object, place: _Place) -> str:
    """Why a value cannot be what its name says; empty where it can."""
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return f"{name} is no tensor of numbers"
    wanted = place.tensor.shape
    any_length = name.endswith(_TOKENS) and value.dim() == 1
    if not any_length and _squeezed(value.shape) != _squeezed(wanted):
        return f"{name} is {list(value.shape)}, not {list(wanted)}: it is of another model"
    return "" if value.isfinite().all() else f"{name} holds NaN or infinity"


def _empty_ranges(found: Mapping[str, Tensor]) -> list[str]:
    lows = {name: f"{name.removesuffix('x_min')}x_max" for name in found if name.endswith("x_min")}
    return [
        f"{high} is not above its lower bound"
        for low, high in lows.items()
        if high in found and bool((found[high] <= found[low]).any())
    ]


def _squeezed(shape: torch.Size) -> list[int]:
    return [side for side in shape if side != 1]


def _differs(found: Tensor, present: Tensor) -> bool:
    largest = float(present.abs().max())
    return float((found - present.float().cpu()).abs().max()) > _SAME_NORM * largest


def main(arguments: Sequence[str] | None = None) -> int:
    """Tell what a published file has in common with the published networks.

    Args:
        arguments: The command line; None takes the process's.
    """
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.passionsr.published",
        description="Tell what a published file has in common with the published networks.",
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--kind", choices=("unet", "vae"), required=True)
    chosen = parser.parse_args(arguments)
    try:
        report = compare_published(chosen.file, chosen.kind)
    except PipelineError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{report.listing}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
