"""What a file of a quantization says of itself, in its header; read without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, get_args

from pipelines.contract import PipelineError
from pipelines.passionsr.choices import Method
from pipelines.passionsr.settings import LayerSettings, Mode

VERSION = 1
COMPONENTS = (("unet",), ("unet", "vae"))
GRANULARITY: Mapping[Mode, str] = {
    "fixed": "weights symmetric, one bound an output channel; activations asymmetric, one range a "
    "tensor; biases in floating point",
    "paper": "weights asymmetric, one range an output channel; activations and biases asymmetric, "
    "one range a tensor",
}
"""What shares a range; with `split` each half of the input channels (mode `paper`: of the tokens of
linear layers) has its own."""
HEADER = "quantization"
"""Key of the safetensors header. It is the only one: the order of several differs between runs."""
AGAIN = "calibrate again (`python -m pipelines.passionsr`)"
"""What to do about a file that is of no use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizationFacts:
    """What a file says of itself.

    Attributes:
        weight_bits: Of all layers, but for the end layers of mode `paper`.
        activation_bits: Likewise.
        mode: `paper` or `fixed`; the granularity follows from it.
        split: Whether inputs and weights have two ranges; of the UNet where the VAE has one.
        s_alpha: Exponent of the smoothing that all scales started from; None where each layer took
            its own (`dqc` of mode `fixed`).
        system: `osediff` or `s3diff`.
        components: Quantized networks.
        method: How scales and bounds were found.
        weights_digest: `WeightsSource.digest` of the weights it was calibrated for.
        calibration: Fingerprint of the set, images, seed, schedule, losses; plain JSON values.
        architecture: Fingerprint of the layers' names and shapes; filled in on saving.

    Raises:
        PipelineError: A value that no calibration has.
    """

    weight_bits: int
    activation_bits: int
    mode: Mode
    split: bool
    s_alpha: float | None
    system: str
    components: tuple[str, ...]
    method: Method
    weights_digest: str
    calibration: dict[str, Any] = field(default_factory=dict)
    architecture: str = ""

    def __post_init__(self) -> None:
        LayerSettings(
            weight_bits=self.weight_bits,
            activation_bits=self.activation_bits,
            mode=self.mode,
            split=self.split,
            s_alpha=0.0 if self.s_alpha is None else self.s_alpha,
        )
        for name, choices in (("components", COMPONENTS), ("method", get_args(Method))):
            if getattr(self, name) not in choices:
                raise PipelineError(f"{name} is {getattr(self, name)!r}: one of {choices}")
        for name in ("system", "weights_digest", "architecture"):
            if not isinstance(getattr(self, name), str):
                raise PipelineError(f"{name} is {getattr(self, name)!r}: a text")


def header_text(facts: QuantizationFacts) -> str:
    """What stands under `HEADER`: JSON, equal for equal facts."""
    content = {"version": VERSION, "granularity": GRANULARITY[facts.mode], **asdict(facts)}
    return json.dumps(content, sort_keys=True)


def read_facts(path: Path) -> QuantizationFacts:
    """The facts of a file, from its header; imports no torch.

    Raises:
        PipelineError: No such file, of another format or version, or damaged.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise PipelineError(f"{path}: no such file; `python -m pipelines.passionsr` writes one")
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise PipelineError(
            f"{path}: truncated or not a safetensors file ({error}); {AGAIN}"
        ) from error
    if HEADER not in metadata:
        raise PipelineError(
            f"{path}: a safetensors file of something else, without '{HEADER}' in its header; "
            "take one that `python -m pipelines.passionsr` wrote"
        )
    return _parse(path, metadata[HEADER])


def _parse(path: Path, text: str) -> QuantizationFacts:
    try:
        content = json.loads(text)
        version = content.pop("version")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise PipelineError(f"{path}: the header does not say its version; {AGAIN}") from error
    if version != VERSION:
        raise PipelineError(
            f"{path}: version {version} of the format, where this program reads {VERSION}; "
            f"{AGAIN}, or use the program that wrote it"
        )
    try:
        content.pop("granularity")
        content["components"] = tuple(content["components"])
        return QuantizationFacts(**content)
    except (TypeError, KeyError, PipelineError) as error:
        raise PipelineError(
            f"{path}: the header is not as this program writes it ({error}); {AGAIN}"
        ) from error
