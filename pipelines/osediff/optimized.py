"""`osediff-optimized`: the same function, with the work that repeats or waits removed.

Every optimization is exact and one named option (see `OptimizedOptions`). Nothing of the weights
depends on the image, so adapters, time, prompt and the prompt's keys and values are all settled at
load, and the text encoder is dropped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch

from pipelines.contract import Observer, Precision, stage
from pipelines.diffusion.lora import AdaptedLayer, wrap_layers
from pipelines.osediff.merging import merged_state
from pipelines.osediff.options import OptimizedOptions
from pipelines.osediff.pipeline import OSEDiffPipeline
from pipelines.osediff.resizing import upscaled_on_device
from pipelines.stable_diffusion.assembly import (
    build_unet,
    build_vae,
    fold_upsamples,
    stack_weights,
)
from pipelines.stable_diffusion.noise_prediction import Prompting
from pipelines.stable_diffusion.optimized import OptimizedOneStep
from pipelines.stable_diffusion.options import LORA_ALPHA
from pipelines.stable_diffusion.steps import to_unit_image

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pipelines.osediff.weights import Checkpoint


class OSEDiffOptimized(
    OSEDiffPipeline[OptimizedOptions], OptimizedOneStep[OptimizedOptions, "Checkpoint"]
):
    """Lock-step tiles on the device, merged adapters, batched tiles, the prompt settled at load."""

    name: ClassVar[str] = "osediff-optimized"
    version: ClassVar[str] = "1"
    Options: ClassVar[type] = OptimizedOptions

    def _resizes(self) -> bool:
        """Whether the input is resized where the networks are."""
        on_card = self._device is not None and self._device.type != "cpu"
        return self.options.device_resize and on_card

    def _input_size(self, height: int, width: int, scale: int) -> tuple[int, int]:
        return (height, width) if self._resizes() else super()._input_size(height, width, scale)

    def _on_host(self, image: NDArray[np.uint8], scale: int) -> NDArray[np.uint8]:
        return image if self._resizes() else super()._on_host(image, scale)

    def _build(self, checkpoint: Checkpoint, device: torch.device, precision: Precision) -> None:
        self._begin_build(checkpoint, precision)
        self._build_networks(checkpoint, device)
        if self.options.fold_time:
            self.unet.fold_time()
        self.embed = self._prompt_source(checkpoint, device)
        self.prompts: torch.Tensor | None = None
        if self.options.cache_prompts:
            self.prompts = self.embed()
            del self.embed
        self._finish_build()

    def _build_networks(self, checkpoint: Checkpoint, device: torch.device) -> None:
        arch, options = checkpoint.architecture, self.options
        unet, vae = checkpoint.unet, checkpoint.vae
        if options.merge_lora:
            unet = merged_state(unet, checkpoint.unet_lora, arch.rank_unet)
            vae = merged_state(vae, checkpoint.vae_lora, arch.rank_vae)
        self.unet = build_unet(arch.unet, unet, options, device, self.dtype)
        self.vae = build_vae(arch.vae, vae, options, device, self.dtype)
        if options.fold_upsample:
            fold_upsamples(self.vae, vae, self.dtype)
        if not options.merge_lora:
            for network, pairs, rank in (
                (self.unet, checkpoint.unet_lora, arch.rank_unet),
                (self.vae, checkpoint.vae_lora, arch.rank_vae),
            ):
                wrapped = wrap_layers(network, pairs, LORA_ALPHA / rank, AdaptedLayer)
                for layer in wrapped.values():
                    layer.to(next(layer.base.parameters()))
            return
        if options.fold_upsample:
            fold_upsamples(self.unet, unet, self.dtype)
        if options.fused_qkv:
            self.unet.fuse_qkv(lambda paths: stack_weights(self.unet, paths))

    def _prompting(self) -> Prompting:
        return Prompting(guidance=None, cache_text_kv=self.options.cache_text_kv)

    def _embeddings(self) -> torch.Tensor:
        return self.embed() if self.prompts is None else self.prompts

    def _start_over(self) -> None:
        super()._start_over()
        if self.prompts is not None:
            self.predictor.read_prompts(self.prompts)

    def _upscale(
        self, image: torch.Tensor, scale: int, noise: torch.Tensor, observe: Observer
    ) -> torch.Tensor:
        budget = self._budget_of(noise.shape)
        if self._resizes():
            with stage("preprocess"):
                pixels = image[0].mul(255).round().to(torch.int32)
                pixels = upscaled_on_device(pixels, scale, self.options.process_size)
                image = pixels[None].to(torch.float32).div(255)
        with stage("prompt"):
            if self.prompts is None:
                self.predictor.read_prompts(self.embed())
        with stage("vae_encode"):
            latent = self._encode((image * 2 - 1).to(self.dtype), noise, observe, budget)
        with stage("unet"):
            eps = self._predict_noise(latent, observe, budget)
        with stage("scheduler"):
            x0 = self._denoise(latent, eps, observe)
        with stage("vae_decode"):
            decoded = self._decode(x0, budget)
        with stage("postprocess"):
            output = to_unit_image(decoded, *image.shape[-2:])
        with stage("color_fix"):
            return self._fix_colors(output, image[0])
