"""Options of `realesrgan-x4plus`; torch-free, so that the harness can check options at once."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.contract import PipelineError

AUTO = 0
"""Value of `tile` that leaves the choice to the pipeline."""
MIN_TILE = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class RealESRGANOptions:
    """What the published inference script exposes, with its defaults.

    Attributes:
        weights: File of the network (`.safetensors`, or the published `.pth`); empty takes what
            `srbench weights fetch --realesrgan` left in the cache.
        tile: Largest side of a tile in LR pixels; 0 tiles only what would not fit into memory.
        tile_pad: LR pixels around a tile that the network sees and that are cut off again.
    """

    weights: str = ""
    tile: int = AUTO
    tile_pad: int = 10

    def __post_init__(self) -> None:
        if self.tile != AUTO and self.tile < MIN_TILE:
            raise PipelineError(
                f"option tile={self.tile}: must be 0 (automatic) or from {MIN_TILE}"
            )
        if self.tile_pad < 0:
            raise PipelineError(f"option tile_pad={self.tile_pad}: must be at least 0")
