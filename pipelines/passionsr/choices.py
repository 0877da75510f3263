"""What a user chooses of a quantized pipeline; torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from pipelines.contract import PipelineError

Arithmetic = Literal["auto", "simulated", "int8", "fp8"]
Components = Literal["unet+vae", "unet"]
Method = Literal["dqc", "smoothquant", "maxmin"]
"""How scales and bounds are found: learned (distributed calibration), or taken from statistics with
or without smoothing scales."""

PUBLISHED = ".pth"
"""Suffix of the files that PassionSR's program saves."""
INTEGER_BITS = 8
"""The one width that tensor cores multiply."""


@dataclass(frozen=True, kw_only=True)
class QuantizationChoices:
    """Options of every quantized pipeline: mixed into those of the pipeline that it quantizes.

    Attributes:
        arithmetic: `simulated` rounds and computes in floating point: true pictures, no speed.
            `int8` multiplies integers, `fp8` linear layers in fp8 and convolutions in integers.
            `auto` takes int8 where a card has it and the simulation elsewhere.
        quantization: Calibration made by `python -m pipelines.passionsr`; empty takes the one
            shipped for these weights, and without one ranges from statistics at load. Or
            PassionSR's own `unet_….pth`, `vae_….pth` beside it: mode `paper`, simulated.
        components: Quantize the UNet and the VAE, or the UNet alone.
    """

    __slots__ = ()  # the slots are those of the class that it is mixed into

    ARM: ClassVar[str]
    """The pipeline's name, for messages."""
    BITS: ClassVar[int]
    """Of weights and activations."""
    METHOD: ClassVar[Method] = "dqc"

    arithmetic: Arithmetic = "auto"
    quantization: str = ""
    components: Components = "unet+vae"

    def check_quantization(self, *, on: Iterable[str] = (), off: Iterable[str] = ()) -> None:
        """Refuse what cannot be computed.

        Args:
            on: Switches without which the quantized layers cannot run.
            off: Switches that would bypass the quantized layers.

        Raises:
            PipelineError: One of them is set otherwise; real arithmetic at a width that no card
                has; a calibration for a pipeline that takes none.
        """
        for names, needed in ((on, True), (off, False)):
            for name in names:
                if getattr(self, name) is not needed:
                    raise PipelineError(
                        f"option {name}={str(not needed).lower()}: {self.ARM} replaces the layers "
                        f"that it changes; leave it {str(needed).lower()}"
                    )
        if self.BITS != INTEGER_BITS and self.arithmetic in ("int8", "fp8"):
            raise PipelineError(
                f"option arithmetic={self.arithmetic}: no card multiplies {self.BITS} bits, so "
                f"{self.ARM} is simulated and tells accuracy only; leave it auto"
            )
        if self.quantization and self.METHOD != "dqc":
            raise PipelineError(
                f"option quantization={self.quantization}: {self.ARM} takes its ranges from "
                f"statistics at load; give the file to {self.ARM.removesuffix(f'-{self.METHOD}')}"
            )
        if self.is_published and self.arithmetic in ("int8", "fp8"):
            raise PipelineError(
                f"option arithmetic={self.arithmetic}: {self.quantization} is of mode paper, which "
                "is simulated only; leave it auto"
            )

    @property
    def is_published(self) -> bool:
        """Whether the calibration is a file of PassionSR's program: its function, bugs included."""
        return self.quantization.endswith(PUBLISHED)

    @property
    def networks(self) -> tuple[str, ...]:
        """`unet` and, where it is quantized too, `vae`."""
        return tuple(self.components.split("+"))
