"""Options of the clean baseline under a compiler; torch-free."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.s3diff.options import BaselineOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class CompiledOptions(BaselineOptions):
    """Options of `s3diff-compiled`: those of `s3diff-baseline`, `compile` switched on."""

    compile: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRTOptions(BaselineOptions):
    """Options of `s3diff-tensorrt`: those of `s3diff-baseline`.

    Attributes:
        optimization_level: Of TensorRT's builder, 0 to 5: a higher one searches longer.
    """

    optimization_level: int = 3
