"""Options of the quantized OSEDiff pipelines; torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipelines.contract import Rung
from pipelines.osediff.options import OptimizedOptions
from pipelines.passionsr.choices import Method, QuantizationChoices


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedOptions(QuantizationChoices, OptimizedOptions):
    """Options of `osediff-optimized` and of quantization, less what would bypass its layers."""

    RUNGS: ClassVar[tuple[Rung, ...]] = ()

    fold_upsample: bool = False
    fused_qkv: bool = False

    def __post_init__(self) -> None:
        OptimizedOptions.__post_init__(self)
        self.check_quantization(
            on=("half_weights", "merge_lora"), off=("fold_upsample", "fused_qkv")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class W8A8Options(QuantizedOptions):
    """Options of `osediff-w8a8`."""

    ARM: ClassVar[str] = "osediff-w8a8"
    BITS: ClassVar[int] = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class W8A8SmoothQuantOptions(W8A8Options):
    """Options of `osediff-w8a8-smoothquant`."""

    ARM: ClassVar[str] = "osediff-w8a8-smoothquant"
    METHOD: ClassVar[Method] = "smoothquant"


@dataclass(frozen=True, slots=True, kw_only=True)
class W8A8MaxMinOptions(W8A8Options):
    """Options of `osediff-w8a8-maxmin`."""

    ARM: ClassVar[str] = "osediff-w8a8-maxmin"
    METHOD: ClassVar[Method] = "maxmin"


@dataclass(frozen=True, slots=True, kw_only=True)
class W6A6Options(QuantizedOptions):
    """Options of `osediff-w6a6`."""

    ARM: ClassVar[str] = "osediff-w6a6"
    BITS: ClassVar[int] = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class W6A6SmoothQuantOptions(W6A6Options):
    """Options of `osediff-w6a6-smoothquant`."""

    ARM: ClassVar[str] = "osediff-w6a6-smoothquant"
    METHOD: ClassVar[Method] = "smoothquant"


@dataclass(frozen=True, slots=True, kw_only=True)
class W6A6MaxMinOptions(W6A6Options):
    """Options of `osediff-w6a6-maxmin`."""

    ARM: ClassVar[str] = "osediff-w6a6-maxmin"
    METHOD: ClassVar[Method] = "maxmin"
