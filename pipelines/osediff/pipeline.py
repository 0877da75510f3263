"""What the OSEDiff pipelines share beside the one-step surface: checkpoint, sizes and prompt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch

from pipelines.contract import WeightsSource
from pipelines.osediff.architecture import Architecture
from pipelines.osediff.options import OSEDiffOptions
from pipelines.osediff.prompt_embedding import read_embedding
from pipelines.osediff.resizing import output_size, upscaled_input
from pipelines.stable_diffusion.pipeline import OneStepPipeline
from pipelines.stable_diffusion.prompt import MAX_TOKENS

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from pipelines.osediff.weights import Checkpoint

OptionsT = TypeVar("OptionsT", bound=OSEDiffOptions)


class OSEDiffPipeline(OneStepPipeline[OptionsT, "Checkpoint"]):
    """One OSEDiff pipeline; subclasses build networks from a checkpoint and infer."""

    architecture: Architecture

    def __init__(self, options: OptionsT) -> None:
        super().__init__(options)
        self.architecture = Architecture.published()

    def output_size(self, height: int, width: int, scale: int) -> tuple[int, int]:
        """Height and width of the picture for an LR size; it stays at the published size.

        That is the enlarged one for inputs below `process_size // scale`, in multiples of 8.
        """
        return output_size(height, width, scale, self.options.process_size)

    def _read(self, weights: WeightsSource) -> Checkpoint:
        from pipelines.osediff.weights import read_checkpoint

        return read_checkpoint(weights)

    def _meta_checkpoint(self) -> Checkpoint:
        from pipelines.osediff.meta import meta_checkpoint

        return meta_checkpoint(self.architecture)

    def _canvas(self, height: int, width: int, scale: int) -> tuple[int, int]:
        return self.output_size(height, width, scale)

    def _input_size(self, height: int, width: int, scale: int) -> tuple[int, int]:
        return self.output_size(height, width, scale)

    def _on_host(self, image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
        return upscaled_input(image, scale, self.options.process_size)

    def _prompt_source(
        self, checkpoint: Checkpoint, device: torch.device
    ) -> Callable[[], torch.Tensor]:
        """What makes the prompt's embedding [1, 77, width] on the device, image by image."""
        options = self.options
        if not options.prompt_embedding:
            encode = checkpoint.prompt_encoder(device)
            return lambda: encode(options.prompt)
        width = int(checkpoint.architecture.unet["cross_attention_dim"])
        if device.type == "meta":
            embedding = torch.empty(1, MAX_TOKENS, width, device=device)
        else:
            path = Path(options.prompt_embedding).expanduser()
            embedding = read_embedding(path, width).to(device)
        return lambda: embedding
