"""Options of the quantized S3Diff pipelines; torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipelines.contract import PipelineError, Rung
from pipelines.passionsr.choices import QuantizationChoices
from pipelines.s3diff.options import OptimizedOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedOptions(QuantizationChoices, OptimizedOptions):
    """Options of `s3diff-optimized` and of quantization, less what would bypass its layers.

    An image's adapters stay on a path of their own in the pipeline's precision: merged, every image
    would need its weights quantized anew.
    """

    RUNGS: ClassVar[tuple[Rung, ...]] = ()

    merge_lora: bool = False
    fold_upsample: bool = False
    fused_qkv: bool = False

    def __post_init__(self) -> None:
        OptimizedOptions.__post_init__(self)
        self.check_quantization(
            on=("half_weights",), off=("merge_lora", "fold_upsample", "fused_qkv")
        )
        if self.is_published:
            raise PipelineError(
                f"option quantization={self.quantization}: PassionSR's files are of OSEDiff; give "
                f"{self.ARM} what `python -m pipelines.passionsr --system s3diff` writes"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class W8A8Options(QuantizedOptions):
    """Options of `s3diff-w8a8`."""

    ARM: ClassVar[str] = "s3diff-w8a8"
    BITS: ClassVar[int] = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class W6A6Options(QuantizedOptions):
    """Options of `s3diff-w6a6`."""

    ARM: ClassVar[str] = "s3diff-w6a6"
    BITS: ClassVar[int] = 6
