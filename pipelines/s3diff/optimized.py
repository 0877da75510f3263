"""`s3diff-optimized`: the same function, with the work that repeats or waits removed.

Every optimization is exact and one named option (see `OptimizedOptions`); with `fp16` the weights
are fp16 while the noise prediction, guidance, blend and scheduler step stay float32, because the
one-step formula multiplies their errors by 14.6. That factor is also why there is no bf16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, ClassVar

import torch

from pipelines import kernels
from pipelines.contract import Observer, PipelineError, Precision, stage
from pipelines.diffusion import color_fix
from pipelines.diffusion.arithmetic import arithmetic
from pipelines.diffusion.compilation import compiling, only_compiled
from pipelines.diffusion.one_step import alpha_bar, predict_x0
from pipelines.s3diff.adapters import Adapters
from pipelines.s3diff.assembly import build_estimator, build_unet, build_vae
from pipelines.s3diff.budget import Budget, choose_budget, needs_of, read_card
from pipelines.s3diff.degradation import Modulator
from pipelines.s3diff.geometry import decoder_tiles, encoder_tiles, unet_tiles
from pipelines.s3diff.lora import unet_block, vae_block
from pipelines.s3diff.noise_prediction import NoisePredictor
from pipelines.s3diff.options import TIMESTEP, ColorFix, OptimizedOptions
from pipelines.s3diff.pipeline import S3DiffPipeline
from pipelines.s3diff.steps import network_input, posterior_latent, resize_input, to_unit_image
from pipelines.stable_diffusion.vae import run_lockstep
from pipelines.work import note_call

if TYPE_CHECKING:
    from pipelines.s3diff.weights import Checkpoint


class S3DiffOptimized(S3DiffPipeline[OptimizedOptions]):
    """Lock-step tiles on the device, merged adapters, batched tiles and prompts."""

    name: ClassVar[str] = "s3diff-optimized"
    version: ClassVar[str] = "1"
    Options: ClassVar[type] = OptimizedOptions

    def __init__(self, options: OptimizedOptions) -> None:
        super().__init__(options)
        self._budgets: dict[tuple[int, int, int], Budget] = {}
        self._prepared: set[tuple[int, int, int]] = set()
        self._uncaptured: dict[tuple[int, int, int], str | None] = {}

    def _build(self, checkpoint: Checkpoint, device: torch.device, precision: Precision) -> None:
        arch, options = checkpoint.architecture, self.options
        self.autocast = precision is Precision.FP16 and not options.half_weights
        self.pinned_transfers = options.pinned_transfers
        halves = precision is Precision.FP16 and options.half_weights
        self.dtype = torch.float16 if halves else torch.float32
        self.alpha_bar = alpha_bar(TIMESTEP)
        self.scaling_factor = float(arch.vae["scaling_factor"])
        self.unet = build_unet(checkpoint, options, device, self.dtype)
        self.vae = build_vae(checkpoint, options, device, self.dtype)
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
        self._start_over()

    def _start_over(self) -> None:
        """Forget all sizes; captured graphs hold the guidance that they were captured with."""
        self.predictor = NoisePredictor(self.unet, self.options, self.dtype)
        for known in (self._budgets, self._prepared, self._uncaptured):
            known.clear()

    def retune(self, options: OptimizedOptions) -> bool:
        """See `S3DiffPipeline.retune`."""
        if not super().retune(options):
            return False
        if self._device is not None:
            self._start_over()
        return True

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

    def budget(self, height: int, width: int, scale: int) -> Budget:
        """What an image of that LR size may use, decided when it is prepared or first seen."""
        key = (height, width, scale)
        if key not in self._budgets:
            self._budgets[key] = self._choose_budget(*key)
        return self._budgets[key]

    def _choose_budget(self, height: int, width: int, scale: int) -> Budget:
        """By the memory that is free now."""
        options = self.options
        latent = torch.empty(self._latent_shape(height, width, scale), device="meta")
        needs = needs_of(
            self.architecture,
            decoder_tiles(latent, options),
            unet_tiles(latent, options),
            element_bytes=2 if self._precision is Precision.FP16 else 4,
        )
        captured = 0 if self._device is None else self.predictor.replayed.pool_bytes
        card = read_card(self._device, captured)
        return choose_budget(options.tile_batch, options.spill, needs, card)

    def memory_estimate(self, height: int, width: int, scale: int) -> int:
        """See `pipelines.contract.Pipeline.memory_estimate`; of the tiles' place chosen now."""
        return self._choose_budget(height, width, scale).needed_bytes

    def prepare(self, height: int, width: int, scale: int) -> None:
        """Weigh the tiles; where the device gains by it capture, compile and autotune."""
        device, key = self._device, (height, width, scale)
        if device is None:
            raise PipelineError(f"{self.name}: load weights before preparing a size")
        if key in self._prepared:
            return
        self._budgets.pop(key, None)
        compiles = self.options.compile and device.type != "meta"
        with torch.inference_mode(), self._arithmetic(tune=True), compiling(enabled=compiles):
            latent = torch.randn(self._latent_shape(*key), device=device)
            tiles = unet_tiles(latent, self.options)
            self.predictor.shares(tiles, latent)
            if compiles:
                self.unet.compile_blocks()
            if self._captures:
                self.predictor.read_prompts(self._embeddings())
                batch = self.budget(*key).tile_batch
                self._uncaptured[key] = self.predictor.capture(latent, tiles, batch)
            if compiles or device.type == "cuda":
                self._rehearse(height, width, scale, torch.randn_like(latent))
        self._prepared.add(key)

    def _rehearse(self, height: int, width: int, scale: int, noise: torch.Tensor) -> None:
        """One image for nothing: kernels are compiled, cuDNN is tuned, tables are on the device."""
        image = torch.rand(1, 3, height, width, device=noise.device)
        try:
            self._upscale(image, scale, noise, lambda *_: None)
        except torch.OutOfMemoryError:  # the image itself will say so, if memory is as short then
            torch.cuda.empty_cache()

    @property
    def _captures(self) -> bool:
        """Whether the UNet is captured; graphs need prompts that stay where they are."""
        on_card = self._device is not None and self._device.type == "cuda"
        return on_card and self.options.cuda_graphs and self.options.cache_text_kv

    def _arithmetic(self, *, tune: bool) -> AbstractContextManager[None]:
        halves = self._device if self.autocast else None
        return arithmetic(autocast_on=halves, tune=tune and self.options.cudnn_autotune)

    def _embeddings(self) -> torch.Tensor:
        return self._encode_prompts() if self.prompts is None else self.prompts

    def _infer(
        self, image: torch.Tensor, scale: int, noise: torch.Tensor, observe: Observer
    ) -> torch.Tensor:
        # What was tuned keeps its algorithms; to tune in the middle of an image would take seconds.
        with self._arithmetic(tune=False), only_compiled(enabled=self.options.compile):
            return self._upscale(image, scale, noise, observe)

    def _upscale(
        self, image: torch.Tensor, scale: int, noise: torch.Tensor, observe: Observer
    ) -> torch.Tensor:
        height, width = image.shape[-2:]
        budget = self.budget(height, width, scale)
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
            tiles = unet_tiles(latent, self.options)
            eps = self.predictor.predict(latent, tiles, budget.tile_batch)
            observe("eps", eps)
        with stage("scheduler"):
            x0 = predict_x0(latent, eps, self.alpha_bar)
            observe("x0", x0)
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

    def _encode(
        self, x: torch.Tensor, noise: torch.Tensor, observe: Observer, budget: Budget
    ) -> torch.Tensor:
        tiles = encoder_tiles(x, self.options)
        note_call("vae_encoder", len(tiles))
        mean, latent = posterior_latent(
            self.vae.quant_conv(run_lockstep(self.vae.encoder, x, tiles, park=budget.park)),
            noise,
            self.scaling_factor,
            sample=self.options.posterior == "sample",
        )
        observe("latent_mean", mean)
        observe("latent", latent)
        return latent

    def _decode(self, x0: torch.Tensor, budget: Budget) -> torch.Tensor:
        z = self.vae.post_quant_conv(x0 / self.scaling_factor).to(self.dtype)
        tiles = decoder_tiles(z, self.options)
        note_call("vae_decoder", len(tiles))
        return run_lockstep(self.vae.decoder, z, tiles, park=budget.park)

    def _fix_colors(self, output: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Between images truncated to 8 bits, as published."""
        fix = self.options.color_fix
        if fix == ColorFix.NONE:
            return output
        if fix == ColorFix.WAVELET and self.options.fused_color_fix:
            return kernels.wavelet_color_fix(output, source)
        apply = color_fix.adain if fix == ColorFix.ADAIN else color_fix.wavelet_telescoped
        eight_bit = (
            color_fix.truncate_to_uint8(i).float().div(255)[None] for i in (output, source)
        )
        return apply(*eight_bit)[0]

    def decisions(self, height: int, width: int, scale: int) -> dict[str, str]:
        """What was chosen for an image of that LR size on this device."""
        budget = self.budget(height, width, scale)
        return {
            "device": self.card.remark,
            "tile_batch": f"{budget.tile_batch} ({budget.tile_batch_reason})",
            "vae_tiles": budget.place,
            "unet": self._unet_runs(height, width, scale),
        }

    def _unet_runs(self, height: int, width: int, scale: int) -> str:
        if not self._captures:
            return "eager"
        latent = torch.empty(self._latent_shape(height, width, scale), device="meta")
        batch = self.budget(height, width, scale).tile_batch
        if self.predictor.is_captured(latent, unet_tiles(latent, self.options), batch):
            return "CUDA graph"
        if problem := self._uncaptured.get((height, width, scale)):
            return f"eager: no CUDA graph could be captured: {problem}"
        return "eager: this size was not prepared"
