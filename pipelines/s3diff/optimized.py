"""`s3diff-optimized`: the same function, with the work that repeats or waits removed.

Every optimization is exact and one named option (see `OptimizedOptions`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

import torch

from pipelines.contract import Observer, Precision, stage
from pipelines.s3diff.adapters import Adapters
from pipelines.s3diff.assembly import build_estimator
from pipelines.s3diff.degradation import Modulator
from pipelines.s3diff.lora import unet_block, vae_block
from pipelines.s3diff.options import OptimizedOptions
from pipelines.s3diff.pipeline import S3DiffPipeline
from pipelines.s3diff.steps import network_input, resize_input
from pipelines.stable_diffusion.assembly import build_unet, build_vae
from pipelines.stable_diffusion.noise_prediction import Prompting
from pipelines.stable_diffusion.optimized import OptimizedOneStep
from pipelines.stable_diffusion.steps import to_unit_image

if TYPE_CHECKING:
    from pipelines.s3diff.weights import Checkpoint


class S3DiffOptimized(
    S3DiffPipeline[OptimizedOptions], OptimizedOneStep[OptimizedOptions, "Checkpoint"]
):
    """Lock-step tiles on the device, merged adapters, batched tiles and prompts."""

    name: ClassVar[str] = "s3diff-optimized"
    version: ClassVar[str] = "1"
    Options: ClassVar[type] = OptimizedOptions

    def _build(self, checkpoint: Checkpoint, device: torch.device, precision: Precision) -> None:
        arch, options = checkpoint.architecture, self.options
        self._begin_build(checkpoint, precision)
        self.unet = build_unet(arch.unet, checkpoint.unet, options, device, self.dtype)
        self.vae = build_vae(arch.vae, checkpoint.vae, options, device, self.dtype)
        self.estimator = build_estimator(checkpoint, options, device, self.dtype)
        self.unet_modulator = Modulator(checkpoint.modulation, "unet", arch.rank_unet).to(device)
        self.vae_modulator = Modulator(checkpoint.modulation, "vae", arch.rank_vae).to(device)
        self._build_adapters(checkpoint, device)
        if options.fold_time:
            self.unet.fold_time()
        self.encode_prompt = checkpoint.prompt_encoder(device)
        self.prompts: torch.Tensor | None = None
        if options.cache_prompts:
            self.prompts = self._encode_prompts()
            del self.encode_prompt
        self._side: torch.cuda.Stream | None = None
        if options.overlap_merge and device.type == "cuda":
            self._side = torch.cuda.Stream(device)
        self._finish_build()

    def _prompting(self) -> Prompting:
        options = self.options
        return Prompting(
            guidance=options.guidance,
            cache_text_kv=options.cache_text_kv,
            batch_prompts=options.batch_prompts,
            share_prefix=options.share_prefix,
        )

    def _build_adapters(self, checkpoint: Checkpoint, device: torch.device) -> None:
        arch, options = checkpoint.architecture, self.options
        merge = options.merge_lora
        foldable = list(self.unet.upsamples()) if options.fold_upsample and merge else []
        for layer in foldable:  # folded in float32, rounded once
            layer.conv.weight.data = layer.conv.weight.data.to(torch.float32)
        self.unet_adapters = Adapters(
            self.unet, checkpoint.unet, checkpoint.unet_lora, arch.rank_unet, unet_block,
            merge=merge,
        )  # fmt: skip
        self.vae_adapters = Adapters(
            self.vae, checkpoint.vae, checkpoint.vae_lora, arch.rank_vae, vae_block, merge=merge
        )
        if options.fold_upsample:
            for layer in self.vae.decoder.upsamples():
                layer.fold(self.dtype)
        self._folded = foldable
        if self.unet_adapters.merger is not None and options.fused_qkv:
            self.unet.fuse_qkv(self.unet_adapters.merger.stacked)
        # So that weights are never memory that nobody wrote.
        for modulate, modulator in (
            (self._modulate_unet, self.unet_modulator),
            (self.vae_adapters.modulate, self.vae_modulator),
        ):
            modulate(modulator(torch.zeros(1, 2, device=device)))

    def _encode_prompts(self) -> torch.Tensor:
        """Positive and negative embedding, [2, 77, width]."""
        texts = (self.options.positive_prompt, self.options.negative_prompt)
        return torch.cat([self.encode_prompt(text) for text in texts])

    def _embeddings(self) -> torch.Tensor:
        return self._encode_prompts() if self.prompts is None else self.prompts

    def _upscale(
        self, image: torch.Tensor, scale: int, noise: torch.Tensor, observe: Observer
    ) -> torch.Tensor:
        budget = self._budget_of(noise.shape)
        with stage("preprocess"):
            upscaled = resize_input(image, scale, self.options)
            x = network_input(upscaled).to(self.dtype)
        with stage("degradation"):
            scores = self.estimator(image.to(self.dtype))
            observe("deg_score", scores)
        with stage("modulate"):
            self.vae_adapters.modulate(self.vae_modulator(scores))
            with self._beside():
                self._modulate_unet(self.unet_modulator(scores))
        with stage("prompt"):
            prompts = self._embeddings()
        with stage("vae_encode"):
            latent = self._encode(x, noise, observe, budget)
        with stage("unet"):
            if self._side is not None:
                torch.cuda.current_stream(latent.device).wait_stream(self._side)
            self.predictor.read_prompts(prompts)
            eps = self._predict_noise(latent, observe, budget)
        with stage("scheduler"):
            x0 = self._denoise(latent, eps, observe)
        with stage("vae_decode"):
            decoded = self._decode(x0, budget)
        with stage("postprocess"):
            output = to_unit_image(decoded, *upscaled.shape[-2:])
        with stage("color_fix"):
            return self._fix_colors(output, upscaled[0])

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """On the side stream, where there is one: what it does runs while the VAE encodes."""
        if self._side is None:
            yield
            return
        self._side.wait_stream(torch.cuda.current_stream(self._side.device))
        with torch.cuda.stream(self._side):
            yield

    def _modulate_unet(self, matrices: torch.Tensor) -> None:
        """Set the image's modulation matrices [1, blocks, r, r] of the UNet, in place."""
        self.unet_adapters.modulate(matrices)
        for layer in self._folded:
            layer.fold(self.dtype)
