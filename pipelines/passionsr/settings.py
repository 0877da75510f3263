"""How a layer is quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from pipelines.contract import PipelineError

Mode = Literal["paper", "fixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSettings:
    """Bits and rules of one quantized layer.

    Attributes:
        weight_bits: 2 to 8.
        activation_bits: 2 to 8.
        split: The halves of the input have ranges of their own.
        mode: `paper` computes what the published program computes, bugs included; `fixed` is
            corrected. `pipelines.passionsr.modes` lists the differences.
        s_alpha: Exponent of the initial smoothing scale, 0 (none) to 1.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    split: bool = False
    mode: Mode = "fixed"
    s_alpha: float = 0.3

    def __post_init__(self) -> None:
        for name in ("weight_bits", "activation_bits"):
            bits = getattr(self, name)
            if isinstance(bits, bool) or not isinstance(bits, int) or not 2 <= bits <= 8:
                raise PipelineError(f"{name} is {bits!r}: give a whole number from 2 to 8")
        if not isinstance(self.split, bool):
            raise PipelineError(f"split is {self.split!r}: give True or False")
        if self.mode not in get_args(Mode):
            raise PipelineError(f"mode is {self.mode!r}: choose paper or fixed")
        if not isinstance(self.s_alpha, int | float) or not 0 <= self.s_alpha <= 1:
            raise PipelineError(f"s_alpha is {self.s_alpha!r}: give a number from 0 to 1")
