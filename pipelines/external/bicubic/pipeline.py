"""`bicubic`: Pillow's bicubic resampling on the host, with no weights, on any device."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np
from PIL import Image

from pipelines.contract import (
    Observer,
    PipelineError,
    Precision,
    Tier,
    WeightsSource,
    WorkCounts,
    stage,
)
from pipelines.external.bicubic.options import BicubicOptions

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

MIN_SIDE = 16


class Bicubic:
    """8-bit pixels in, 8-bit pixels out; precision and seed change nothing."""

    name: ClassVar[str] = "bicubic"
    version: ClassVar[str] = "1"
    Options: ClassVar[type] = BicubicOptions
    precisions: ClassVar[tuple[Precision, ...]] = (Precision.FP32, Precision.FP16)
    tiers: ClassVar[dict[Precision, Tier]] = dict.fromkeys(precisions, Tier.APPROX)

    def __init__(self, options: BicubicOptions) -> None:
        self.options = options

    def load(self, weights: WeightsSource, device: torch.device, precision: Precision) -> None:
        """Nothing to read."""

    def prepare(self, height: int, width: int, scale: int) -> None:
        """Nothing to prepare."""

    def decisions(self, height: int, width: int, scale: int) -> dict[str, str]:
        """Where it computes, whatever the device of the run is."""
        return {"device": "the host (Pillow)"}

    def upscale(self, image: NDArray[np.uint8], scale: int, *, seed: int) -> NDArray[np.uint8]:
        """See `pipelines.contract.Pipeline.upscale`."""
        height, width = image.shape[:2]
        if min(height, width) < MIN_SIDE:
            raise PipelineError(
                f"image of {width}x{height} px: sides must be at least {MIN_SIDE} px"
            )
        with stage("preprocess"):
            size = (width * scale, height * scale)
            return np.array(Image.fromarray(image).resize(size, Image.Resampling.BICUBIC))

    def upscale_float(
        self,
        image: NDArray[np.uint8],
        scale: int,
        *,
        seed: int,
        observe: Observer | None = None,
    ) -> NDArray[np.float32]:
        """The 8-bit picture: Pillow rounds between rows and columns. Nothing is observed."""
        return self.upscale(image, scale, seed=seed).astype(np.float32) / np.float32(255)

    def work(self, height: int, width: int, scale: int) -> WorkCounts:
        """No operator of torch."""
        return WorkCounts()

    def memory_estimate(self, height: int, width: int, scale: int) -> int:
        """Bytes of the picture, and of Pillow's after the rows; four a pixel."""
        return 4 * width * scale * (height * scale + height)
