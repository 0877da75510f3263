"""What optimized one-step pipelines share: tiles in lock-step on the device, sizes prepared once.

With `fp16` the weights are fp16 while the noise prediction, guidance, blend and scheduler step stay
float32, because the one-step formula multiplies their errors by 14.6. That factor is also why there
is no bf16.
"""

from __future__ import annotations

from abc import abstractmethod
from contextlib import AbstractContextManager
from typing import TypeVar

import torch

from pipelines import kernels
from pipelines.contract import Observer, PipelineError, Precision
from pipelines.diffusion import color_fix
from pipelines.diffusion.arithmetic import arithmetic
from pipelines.diffusion.compilation import compiling, only_compiled
from pipelines.diffusion.one_step import alpha_bar, predict_x0
from pipelines.stable_diffusion.budget import Budget, choose_budget, needs_of, read_card
from pipelines.stable_diffusion.geometry import decoder_tiles, encoder_tiles, unet_tiles
from pipelines.stable_diffusion.noise_prediction import NoisePredictor, Prompting
from pipelines.stable_diffusion.options import TIMESTEP, Acceleration, ColorFix
from pipelines.stable_diffusion.pipeline import CheckpointT, OneStepPipeline
from pipelines.stable_diffusion.steps import posterior_latent
from pipelines.stable_diffusion.unet import UNet
from pipelines.stable_diffusion.vae import Vae, run_lockstep
from pipelines.work import note_call

OptionsT = TypeVar("OptionsT", bound=Acceleration)


class OptimizedOneStep(OneStepPipeline[OptionsT, CheckpointT]):
    """Lock-step tiles on the device, batched UNet tiles, captured and compiled sizes."""

    unet: UNet
    vae: Vae

    def __init__(self, options: OptionsT) -> None:
        super().__init__(options)
        self._budgets: dict[tuple[int, ...], Budget] = {}
        self._prepared: set[tuple[int, int, int]] = set()
        self._uncaptured: dict[tuple[int, int, int], str | None] = {}

    @abstractmethod
    def _prompting(self) -> Prompting:
        """What becomes of the prompts."""

    @abstractmethod
    def _embeddings(self) -> torch.Tensor:
        """The prompts' embeddings [prompts, 77, width]."""

    @abstractmethod
    def _upscale(
        self, image: torch.Tensor, scale: int, noise: torch.Tensor, observe: Observer
    ) -> torch.Tensor:
        """`_infer` under this pipeline's arithmetic."""

    def _begin_build(self, checkpoint: CheckpointT, precision: Precision) -> None:
        """Decide what follows from options and precision."""
        options = self.options
        self.autocast = precision is Precision.FP16 and not options.half_weights
        self.pinned_transfers = options.pinned_transfers
        halves = precision is Precision.FP16 and options.half_weights
        self.dtype = torch.float16 if halves else torch.float32
        self.alpha_bar = alpha_bar(TIMESTEP)
        self.scaling_factor = float(checkpoint.architecture.vae["scaling_factor"])

    def _finish_build(self) -> None:
        """Take the networks as they are now: what follows from their weights and `self.dtype`.

        The last step of building; again, where they were changed after it.
        """
        self._start_over()

    def _start_over(self) -> None:
        """Forget all sizes; captured graphs hold the guidance that they were captured with."""
        self.predictor = NoisePredictor(self.unet, self._prompting(), self.dtype)
        for known in (self._budgets, self._prepared, self._uncaptured):
            known.clear()

    def retune(self, options: OptionsT) -> bool:
        """See `OneStepPipeline.retune`."""
        if not super().retune(options):
            return False
        if self._device is not None:
            self._start_over()
        return True

    def budget(self, height: int, width: int, scale: int) -> Budget:
        """What an image of that LR size may use, decided when it is prepared or first seen."""
        return self._budget_of(self._latent_shape(height, width, scale))

    def _budget_of(self, latent_shape: tuple[int, ...]) -> Budget:
        if latent_shape not in self._budgets:
            self._budgets[latent_shape] = self._choose_budget(latent_shape)
        return self._budgets[latent_shape]

    def _choose_budget(self, latent_shape: tuple[int, ...]) -> Budget:
        """By the memory that is free now."""
        options = self.options
        latent = torch.empty(latent_shape, device="meta")
        needs = needs_of(
            self.architecture,
            decoder_tiles(latent, options),
            unet_tiles(latent, options),
            element_bytes=2 if self._precision is Precision.FP16 else 4,
        )
        captured = 0 if self._device is None else self.predictor.replayed.pool_bytes
        card = read_card(self._device, captured)
        prompts = self._prompting().count
        return choose_budget(options.tile_batch, options.spill, needs, card, prompts)

    def memory_estimate(self, height: int, width: int, scale: int) -> int:
        """See `pipelines.contract.Pipeline.memory_estimate`; of the tiles' place chosen now."""
        return self._choose_budget(self._latent_shape(height, width, scale)).needed_bytes

    def prepare(self, height: int, width: int, scale: int) -> None:
        """Weigh the tiles; where the device gains by it capture, compile and autotune."""
        device, key = self._device, (height, width, scale)
        if device is None:
            raise PipelineError(f"{self.name}: load weights before preparing a size")
        if key in self._prepared:
            return
        latent_shape = self._latent_shape(*key)
        self._budgets.pop(latent_shape, None)
        compiles = self.options.compile and device.type != "meta"
        with torch.inference_mode(), self._arithmetic(tune=True), compiling(enabled=compiles):
            latent = torch.randn(latent_shape, device=device)
            tiles = unet_tiles(latent, self.options)
            if len(tiles.offsets) > 1:
                self.predictor.shares(tiles, latent)
            if compiles:
                self.unet.compile_blocks()
            if self._captures:
                self.predictor.read_prompts(self._embeddings())
                batch = self._budget_of(latent_shape).tile_batch
                self._uncaptured[key] = self.predictor.capture(latent, tiles, batch)
            if compiles or device.type == "cuda":
                self._rehearse(self._input_size(*key), scale, torch.randn_like(latent))
        self._prepared.add(key)

    def _rehearse(self, size: tuple[int, int], scale: int, noise: torch.Tensor) -> None:
        """One image for nothing: kernels are compiled, cuDNN is tuned, tables are on the device."""
        image = torch.rand(1, 3, *size, device=noise.device)
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

    def _infer(
        self, image: torch.Tensor, scale: int, noise: torch.Tensor, observe: Observer
    ) -> torch.Tensor:
        # What was tuned keeps its algorithms; to tune in the middle of an image would take seconds.
        with self._arithmetic(tune=False), only_compiled(enabled=self.options.compile):
            return self._upscale(image, scale, noise, observe)

    def _encode(
        self, x: torch.Tensor, noise: torch.Tensor, observe: Observer, budget: Budget
    ) -> torch.Tensor:
        """Image in [-1, 1] -> scaled latent [1, C, h, w], float32."""
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

    def _predict_noise(
        self, latent: torch.Tensor, observe: Observer, budget: Budget
    ) -> torch.Tensor:
        """Scaled latent -> noise of the same shape, float32."""
        tiles = unet_tiles(latent, self.options)
        eps = self.predictor.predict(latent, tiles, budget.tile_batch)
        observe("eps", eps)
        return eps

    def _denoise(self, latent: torch.Tensor, eps: torch.Tensor, observe: Observer) -> torch.Tensor:
        """The one step, float32."""
        x0 = predict_x0(latent, eps, self.alpha_bar)
        observe("x0", x0)
        return x0

    def _decode(self, x0: torch.Tensor, budget: Budget) -> torch.Tensor:
        """Scaled latent -> image around [-1, 1]."""
        z = self.vae.post_quant_conv(x0 / self.scaling_factor).to(self.dtype)
        tiles = decoder_tiles(z, self.options)
        note_call("vae_decoder", len(tiles))
        return run_lockstep(self.vae.decoder, z, tiles, park=budget.park)

    def _fix_colors(self, output: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Between images [3, H, W] truncated to 8 bits, as published."""
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
