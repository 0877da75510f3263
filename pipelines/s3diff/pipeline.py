"""What both S3Diff pipelines share beside the one-step surface: their checkpoint and sizes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, TypeVar

from pipelines.contract import WeightsSource
from pipelines.s3diff.architecture import Architecture
from pipelines.s3diff.options import PICTURE_OPTIONS, S3DiffOptions
from pipelines.s3diff.steps import padded_size
from pipelines.stable_diffusion.pipeline import OneStepPipeline

if TYPE_CHECKING:
    from pipelines.s3diff.weights import Checkpoint

OptionsT = TypeVar("OptionsT", bound=S3DiffOptions)


class S3DiffPipeline(OneStepPipeline[OptionsT, "Checkpoint"]):
    """One S3Diff pipeline; subclasses build networks from a checkpoint and infer."""

    picture_options: ClassVar[frozenset[str]] = PICTURE_OPTIONS

    architecture: Architecture

    def __init__(self, options: OptionsT) -> None:
        super().__init__(options)
        self.architecture = Architecture.published()

    def _read(self, weights: WeightsSource) -> Checkpoint:
        from pipelines.s3diff.weights import read_checkpoint

        return read_checkpoint(weights)

    def _meta_checkpoint(self) -> Checkpoint:
        from pipelines.s3diff.meta import meta_checkpoint

        return meta_checkpoint(self.architecture)

    def _canvas(self, height: int, width: int, scale: int) -> tuple[int, int]:
        return padded_size(height * scale), padded_size(width * scale)
