"""Our file of a quantization: what calibration learned, and for which network it holds.

One safetensors file. Tensors are named `<component>.<diffusers' path>.<parameter>`, float32. The
header tells bits, granularity, mode, the calibration and the weights, and is read without torch.
The weights are not in it: bounds and scales mean something only beside them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.contract import PipelineError
from pipelines.passionsr.facts import (
    AGAIN,
    HEADER,
    QuantizationFacts,
    header_text,
    read_facts,
)
from pipelines.passionsr.settings import LayerSettings
from pipelines.replacing import replacing

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.passionsr.attention import QuantizedAttention
    from pipelines.passionsr.layer import QuantizedLayer

    Layers = Mapping[str, Mapping[str, QuantizedLayer | QuantizedAttention]]
    """Component (`unet`, `vae`) -> diffusers' path -> quantized layer or attention block."""

__all__ = [
    "Expected",
    "QuantizationFacts",
    "architecture_fingerprint",
    "load_quantization",
    "read_facts",
    "save_quantization",
]
_SHOWN = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What a file must have been made for.

    Attributes:
        settings: Of the layers it is loaded into; their smoothing exponent may differ.
        system: `osediff` or `s3diff`.
        weights_digest: Of the weights that are loaded.
    """

    settings: LayerSettings
    system: str
    weights_digest: str


def architecture_fingerprint(layers: Layers) -> str:
    """SHA-256 (hex) over the sorted names of the layers and the shapes of their weights."""
    weights = (
        (f"{component}.{path}", getattr(layer, "weight", None))
        for component, network in layers.items()
        for path, layer in network.items()
    )
    lines = sorted(f"{name} {list(x.shape) if x is not None else ''}" for name, x in weights)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def save_quantization(path: Path, layers: Layers, facts: QuantizationFacts) -> None:
    """Write what the layers learned, atomically; equal layers and facts give equal bytes.

    Raises:
        PipelineError: A layer was never initialised or has impossible bounds, the facts name other
            components, or the file cannot be written.
    """
    from safetensors.torch import save

    if set(layers) != set(facts.components):
        raise PipelineError(
            f"{path}: not written, layers of {'+'.join(layers)} with facts of "
            f"{'+'.join(facts.components)}"
        )
    for component, network in layers.items():
        for name, layer in network.items():
            if not layer.initialized:
                raise PipelineError(
                    f"{path}: not written, {component}.{name} was never calibrated; send pictures "
                    "through the network first"
                )
    tensors = {name: x.detach().float().cpu().contiguous() for name, x in _tensors(layers).items()}
    if problems := _impossible(tensors):
        raise PipelineError(f"{path}: not written, {_summary(problems)}")
    facts = replace(facts, architecture=architecture_fingerprint(layers))
    _write(path, save(tensors, metadata={HEADER: header_text(facts)}))


def load_quantization(path: Path, layers: Layers, expected: Expected) -> QuantizationFacts:
    """Put a file's numbers into quantized layers, which are then initialized.

    Args:
        path: Of `save_quantization`.
        layers: Of `quantize_network`, by component; attention blocks too where they are quantized.
        expected: What the file must have been calibrated for.

    Raises:
        PipelineError: The file is of other bits, another mode, system, network or other weights,
            its tensors do not fit the layers, or hold impossible values. Nothing is changed then.
    """
    from safetensors.torch import load_file

    from pipelines.passionsr.network import load_learned

    facts = read_facts(path)
    _check_facts(path, facts, expected, layers)
    found, wanted = load_file(path), _tensors(layers)
    problems = [f"{name} is missing" for name in wanted if name not in found]
    problems += [f"{name} is unknown" for name in found if name not in wanted]
    problems += [
        f"{name} is {list(found[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape and not _of_tokens(name, found)
    ]
    if problems := problems or _impossible(found):
        raise PipelineError(f"{path}: {_summary(problems)}; {AGAIN}")
    for component, network in layers.items():
        for name, layer in network.items():
            prefix = f"{component}.{name}."
            own = {k.removeprefix(prefix): x for k, x in found.items() if k.startswith(prefix)}
            load_learned(layer, own)
    return facts


def _tensors(layers: Layers) -> dict[str, Tensor]:
    """All that a layer's function depends on beside its weight: parameters, constants of bounds."""
    from pipelines.passionsr.network import learned_tensors

    return {
        f"{component}.{path}.{name}": tensor
        for component, network in layers.items()
        for path, layer in network.items()
        for name, tensor in learned_tensors(layer).items()
    }


def _of_tokens(name: str, found: Mapping[str, Tensor]) -> bool:
    """Whether it holds one scale a key token: its length is that of the calibration's pictures."""
    return name.endswith("scale_factor_vw") and found[name].dim() == 1


def _impossible(tensors: Mapping[str, Tensor]) -> list[str]:
    """Values that no calibration gives, a line each."""
    problems = []
    for name, tensor in tensors.items():
        stem, _, kind = name.rpartition(".")
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            problems.append(f"{name} holds NaN or infinity, or no numbers")
        elif kind.startswith("scale_factor") and bool((tensor <= 0).any()):
            problems.append(f"{name} is not positive")
        elif kind == "x_max" and bool((tensor <= tensors.get(f"{stem}.x_min", -tensor)).any()):
            problems.append(f"{name} is not above its lower bound")
    return problems


def _summary(problems: list[str]) -> str:
    rest = len(problems) - _SHOWN
    return "; ".join(problems[:_SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def _check_facts(path: Path, facts: QuantizationFacts, expected: Expected, layers: Layers) -> None:
    settings = expected.settings
    for what, found, wanted in (
        ("system", facts.system, expected.system),
        ("components", "+".join(facts.components), "+".join(sorted(layers))),
        ("mode", facts.mode, settings.mode),
        ("weight bits", facts.weight_bits, settings.weight_bits),
        ("activation bits", facts.activation_bits, settings.activation_bits),
        ("split", facts.split, settings.split),
    ):
        if found != wanted:
            raise PipelineError(
                f"{path}: calibrated for {what} {found}, not {wanted}; take a file for the latter, "
                "or choose the pipeline and options that it is for"
            )
    if facts.architecture != architecture_fingerprint(layers):
        raise PipelineError(
            f"{path}: calibrated for a network of other layers or widths than these weights have; "
            f"take the file that belongs to them, or {AGAIN}"
        )
    if facts.weights_digest != expected.weights_digest:
        raise PipelineError(
            f"{path}: calibrated for the weights {facts.weights_digest[:12]}, these are "
            f"{expected.weights_digest[:12]}; bounds hold for one set of weights only: {AGAIN}"
        )


def _write(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, durable=True) as file:
            file.write(content)
    except OSError as error:
        raise PipelineError(f"{path}: cannot write ({error.strerror or error})") from error
