"""OSEDiff and S3Diff as calibration sees them."""

from __future__ import annotations

import torch

from pipelines.contract import Precision, WeightsSource
from pipelines.osediff.optimized import OSEDiffOptimized
from pipelines.osediff.options import OptimizedOptions as OSEDiffOptions
from pipelines.osediff.resizing import upscaled_input
from pipelines.passionsr.calibration.model import (
    PLAIN,
    Condition,
    OneStepModel,
    let_autograd_see,
)
from pipelines.passionsr.calibration.schedule import System
from pipelines.passionsr.calibration.set import Rgb
from pipelines.s3diff.optimized import S3DiffOptimized
from pipelines.s3diff.options import OptimizedOptions as S3DiffOptions
from pipelines.s3diff.steps import network_input, resize_input
from pipelines.stable_diffusion.steps import pixels_to_tensor

Tensor = torch.Tensor

_AS_GIVEN = 1
"""Process size that enlarges no picture beyond the scale."""


def open_model(
    system: System, weights: WeightsSource, scale: int, *, fold_time: bool = True
) -> OneStepModel:
    """The model of a system in full precision.

    Args:
        system: Which.
        weights: Of the system.
        scale: Of the upscaling.
        fold_time: Without layers for the timestep; mode `paper` quantizes them.

    Raises:
        PipelineError: The weights are missing, damaged or of another system.
    """
    kind = S3DiffModel if system == "s3diff" else OSEDiffModel
    return kind(weights, scale, fold_time=fold_time)


class OSEDiffModel(OneStepModel):
    """OSEDiff with its adapters merged and the empty prompt.

    Args:
        weights: Of OSEDiff.
        scale: Of the upscaling.
        fold_time: See `open_model`.
    """

    together = 4

    def __init__(self, weights: WeightsSource, scale: int, *, fold_time: bool = True) -> None:
        options = OSEDiffOptions(process_size=_AS_GIVEN, fold_time=fold_time, **PLAIN)
        pipeline = OSEDiffOptimized(options)
        pipeline.load(weights, torch.device("cpu"), Precision.FP32)
        super().__init__(pipeline)
        assert pipeline.prompts is not None
        self._scale, self._prompt = scale, pipeline.prompts.clone()

    def condition(self, lr: Rgb) -> Condition:
        pixels = upscaled_input(lr, self._scale, _AS_GIVEN)
        return Condition(pixels_to_tensor(torch.from_numpy(pixels)) * 2 - 1)

    def eps(self, condition: Condition, latent: Tensor) -> Tensor:
        text = self.unet.text_keys_values(self._prompt)
        return torch.as_tensor(self.unet(latent, text, share_prefix=True)[0])


class S3DiffModel(OneStepModel):
    """S3Diff with its modulated adapters on a path of their own, in full precision.

    Args:
        weights: Of S3Diff.
        scale: Of the upscaling.
        fold_time: See `open_model`.
    """

    def __init__(self, weights: WeightsSource, scale: int, *, fold_time: bool = True) -> None:
        options = S3DiffOptions(merge_lora=False, fold_time=fold_time, **PLAIN)
        self._pipeline = pipeline = S3DiffOptimized(options)
        pipeline.load(weights, torch.device("cpu"), Precision.FP32)
        super().__init__(pipeline)
        for network in (pipeline.estimator, pipeline.unet_modulator, pipeline.vae_modulator):
            let_autograd_see(network)
        assert pipeline.prompts is not None
        self._scale, self._prompts = scale, pipeline.prompts.clone()

    @torch.no_grad()
    def condition(self, lr: Rgb) -> Condition:
        image = pixels_to_tensor(torch.from_numpy(lr))
        x = network_input(resize_input(image, self._scale, self._pipeline.options))
        return Condition(x, self._pipeline.estimator(image))

    def encode(self, condition: Condition, noise: Tensor | None = None) -> Tensor:
        with torch.no_grad():
            matrices = self._pipeline.vae_modulator(condition.scores)
        self._pipeline.vae_adapters.modulate(matrices)
        return super().encode(condition, noise)

    def eps(self, condition: Condition, latent: Tensor) -> Tensor:
        with torch.no_grad():
            matrices = self._pipeline.unet_modulator(condition.scores)
        self._pipeline.unet_adapters.modulate(matrices)
        text = self.unet.text_keys_values(self._prompts)
        positive, negative = self.unet(latent, text, share_prefix=True)
        guidance = self._pipeline.options.guidance
        return torch.as_tensor(negative + guidance * (positive - negative))
