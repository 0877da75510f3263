"""`s3diff-optimized`: the same function, with the work that repeats or waits removed.

Every optimization is exact and one named option (see `OptimizedOptions`); with `fp16` the weights
are fp16 while the noise prediction, guidance, blend and scheduler step stay float32, because the
one-step formula multiplies their errors by 14.6. That factor is also why there is no bf16.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, ClassVar

import torch

from pipelines import kernels
from pipelines.contract import Observer, PipelineError, Precision, stage
from pipelines.diffusion import color_fix
from pipelines.diffusion.compilation import compiling, only_compiled
from pipelines.diffusion.one_step import alpha_bar, predict_x0
from pipelines.diffusion.tiling import LatentTiles
from pipelines.s3diff.adapters import Adapters
from pipelines.s3diff.assembly import build_estimator, build_unet, build_vae
from pipelines.s3diff.budget import (
    ALL_TILES,
    ONE_TILE,
    SAMPLE_MAPS,
    Budget,
    Needs,
    choose_budget,
    read_card,
)
from pipelines.s3diff.degradation import Modulator
from pipelines.s3diff.geometry import decoder_tiles, encoder_tiles, unet_tiles
from pipelines.s3diff.lora import unet_block, vae_block
from pipelines.s3diff.noise_prediction import NoisePredictor
from pipelines.s3diff.options import TIMESTEP, VAE_FACTOR, ColorFix, OptimizedOptions
from pipelines.s3diff.pipeline import S3DiffPipeline
from pipelines.s3diff.prompt import PromptEncoder
from pipelines.s3diff.steps import network_input, posterior_latent, resize_input, to_unit_image
from pipelines.s3diff.vae import run_lockstep
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
        self.encode_prompt = PromptEncoder(checkpoint, device)
        self.prompts: torch.Tensor | None = None
        if options.cache_prompts:
            self.prompts = self._encode_prompts()
            del self.encode_prompt
        self.predictor = NoisePredictor(self.unet, options, self.dtype)
        self._side: torch.cuda.Stream | None = None
        if options.overlap_merge and device.type == "cuda":
            self._side = torch.cuda.Stream(device)
        self._budgets.clear()
        self._uncaptured: str | None = None

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
        """What an image of that LR size may use, decided once from the memory that is free."""
        key = (height, width, scale)
        if key not in self._budgets:
            options, card = self.options, read_card(self._device)
            needs = self._needs(height, width, scale)
            self._budgets[key] = choose_budget(options.tile_batch, options.spill, needs, card)
        return self._budgets[key]

    def _needs(self, height: int, width: int, scale: int) -> Needs:
        shape = self._latent_shape(height, width, scale)
        latent = torch.empty(shape, device="meta")
        tiles, unet = decoder_tiles(latent, self.options), unet_tiles(latent, self.options)
        element = 2 if self._precision is Precision.FP16 else 4
        vae_width: int = sorted(self.architecture.vae["block_out_channels"])[1]
        unet_width: int = self.architecture.unet["block_out_channels"][0]

        def maps(latents: int) -> int:
            return element * vae_width * VAE_FACTOR**2 * latents

        areas = [tile.source.height * tile.source.width for tile in tiles]
        one = ONE_TILE * maps(max(areas))
        return Needs(
            resident=int(ALL_TILES * maps(sum(areas)) + one),
            parked=int(ALL_TILES * maps(max(areas)) + one),
            unet_sample=SAMPLE_MAPS * element * unet_width * unet.tile_height * unet.tile_width,
        )

    def memory_estimate(self, height: int, width: int, scale: int) -> int:
        """See `pipelines.contract.Pipeline.memory_estimate`; of the tiles' place chosen here."""
        return self.budget(height, width, scale).needed_bytes

    def prepare(self, height: int, width: int, scale: int) -> None:
        """Weigh the tiles; compile and capture the UNet where options and device allow it."""
        device = self._device
        if device is None:
            raise PipelineError(f"{self.name}: load weights before preparing a size")
        with torch.inference_mode(), self._arithmetic(), compiling(enabled=self.options.compile):
            latent = torch.randn(self._latent_shape(height, width, scale), device=device)
            tiles = unet_tiles(latent, self.options)
            self.predictor.shares(tiles, latent)
            if self.options.compile or self._captures:
                self._rehearse(latent, tiles, self.budget(height, width, scale).tile_batch)

    @property
    def _captures(self) -> bool:
        """Whether the UNet is captured; graphs need prompts that stay where they are."""
        on_card = self._device is not None and self._device.type == "cuda"
        return on_card and self.options.cuda_graphs and self.options.cache_text_kv

    def _rehearse(self, latent: torch.Tensor, tiles: LatentTiles, batch: int) -> None:
        if self.options.compile:
            self.unet.compile_blocks()
        self.predictor.read_prompts(
            self._encode_prompts() if self.prompts is None else self.prompts
        )
        if self._captures:
            self._uncaptured = self.predictor.capture(latent, tiles, batch)
        else:
            self.predictor.predict(latent, tiles, batch)

    @contextmanager
    def _arithmetic(self) -> Iterator[None]:
        """Autocast where weights are not halved; cuDNN's autotuner where it is asked for."""
        cudnn = torch.backends.cudnn
        tuned = cudnn.benchmark
        cudnn.benchmark = self.options.cudnn_autotune
        halving: AbstractContextManager[object] = nullcontext()
        if self.autocast and self._device is not None:
            halving = torch.autocast(self._device.type, torch.float16, cache_enabled=False)
        try:
            with halving:
                yield
        finally:
            cudnn.benchmark = tuned

    def _infer(
        self, image: torch.Tensor, scale: int, noise: torch.Tensor, observe: Observer
    ) -> torch.Tensor:
        with self._arithmetic(), only_compiled(enabled=self.options.compile):
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
            prompts = self._encode_prompts() if self.prompts is None else self.prompts
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
            "vae_tiles": budget.park_reason,
            "unet": self._unet_runs(height, width, scale),
        }

    def _unet_runs(self, height: int, width: int, scale: int) -> str:
        if not self._captures:
            return "eager"
        if self._uncaptured is not None:
            return f"eager: no CUDA graph could be captured: {self._uncaptured}"
        latent = torch.empty(self._latent_shape(height, width, scale), device="meta")
        batch = self.budget(height, width, scale).tile_batch
        captured = self.predictor.is_captured(latent, unet_tiles(latent, self.options), batch)
        return "CUDA graph" if captured else "eager: this size was not prepared"
