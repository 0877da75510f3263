"""`s3diff-baseline`: the published program's behaviour, step by step (commit 6a2e0a4)."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from pipelines.contract import Observer, Precision, stage
from pipelines.diffusion import color_fix
from pipelines.diffusion.one_step import alpha_bar, predict_x0
from pipelines.diffusion.tiling import gaussian_weights
from pipelines.s3diff.degradation import DegradationEstimator, Modulator
from pipelines.s3diff.geometry import decoder_tiles, encoder_tiles, unet_tiles
from pipelines.s3diff.lora import unet_block, vae_block, wrap_layers
from pipelines.s3diff.options import (
    TIMESTEP,
    BaselineOptions,
    ColorFix,
)
from pipelines.s3diff.pipeline import S3DiffPipeline
from pipelines.s3diff.steps import network_input, posterior_latent, resize_input, to_unit_image
from pipelines.stable_diffusion.tiled_vae import decoder_steps, encoder_steps, run_tiled
from pipelines.work import note_call, replayed

if TYPE_CHECKING:
    from pipelines.s3diff.weights import Checkpoint


class S3DiffBaseline(S3DiffPipeline[BaselineOptions]):
    """Per-tile execution, two UNet calls a tile, run-time LoRA, prompts encoded each image.

    `fp16` keeps float32 weights under fp16 autocast, as the published fp16 figures were taken.
    """

    name: ClassVar[str] = "s3diff-baseline"
    version: ClassVar[str] = "1"
    Options: ClassVar[type] = BaselineOptions

    def _build(self, checkpoint: Checkpoint, device: torch.device, precision: Precision) -> None:
        arch = checkpoint.architecture
        with torch.device("meta"):
            self.unet = UNet2DConditionModel.from_config(arch.unet)
            self.vae = AutoencoderKL.from_config(arch.vae)
            self.estimator = DegradationEstimator(
                arch.degradation_width, arch.degradation_wide, arch.degradation_hidden
            )
        self.unet.load_state_dict(checkpoint.unet, assign=True)
        self.vae.load_state_dict(checkpoint.vae, assign=True)
        self.estimator.load_state_dict(checkpoint.degradation, assign=True)
        self.unet_lora = wrap_layers(self.unet, checkpoint.unet_lora, arch.rank_unet)
        self.vae_lora = wrap_layers(self.vae, checkpoint.vae_lora, arch.rank_vae)
        self.unet_modulator = Modulator(checkpoint.modulation, "unet", arch.rank_unet)
        self.vae_modulator = Modulator(checkpoint.modulation, "vae", arch.rank_vae)
        for network in (
            self.unet, self.vae, self.estimator, self.unet_modulator, self.vae_modulator,
        ):  # fmt: skip
            network.to(device).eval().requires_grad_(False)
        if self.options.compile:
            for network in (self.unet, self.vae.encoder, self.vae.decoder):
                network.compile(dynamic=False)
        self.encode_prompt = checkpoint.prompt_encoder(device)
        self.alpha_bar = alpha_bar(TIMESTEP)
        self.autocast = precision is Precision.FP16

    def _infer(
        self, image: torch.Tensor, scale: int, noise: torch.Tensor, observe: Observer
    ) -> torch.Tensor:
        device = image.device.type
        with (
            torch.autocast(device, torch.float16) if self.autocast else nullcontext(),
            self._housekeeping(),
        ):
            with stage("preprocess"):
                upscaled = resize_input(image, scale, self.options)
                x = network_input(upscaled)
            self._modulate(image, observe)
            with stage("prompt"):
                positive = self.encode_prompt(self.options.positive_prompt)
                negative = self.encode_prompt(self.options.negative_prompt)
            with stage("vae_encode"):
                latent = self._encode(x, noise, observe)
            with stage("unet"):
                eps = self._predict_noise(latent, positive, negative)
                observe("eps", eps)
            with stage("scheduler"):
                x0 = predict_x0(latent, eps, self.alpha_bar)
                observe("x0", x0)
            with stage("vae_decode"):
                decoded = self._decode(x0)
        with stage("postprocess"):
            output = to_unit_image(decoded, *upscaled.shape[-2:])
        with stage("color_fix"):
            return self._fix_colors(output, upscaled[0])

    @contextmanager
    def _housekeeping(self) -> Iterator[None]:
        """What the published decorators do before and after a call, when `as_shipped`."""
        if not self.options.as_shipped:
            yield
            return
        self._collect_garbage()
        yield
        self._collect_garbage()

    @staticmethod
    def _collect_garbage() -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.ipc_collect()
        gc.collect()

    def _modulate(self, image: torch.Tensor, observe: Observer) -> None:
        with stage("degradation"):
            scores = self.estimator(image)
            observe("deg_score", scores)
        with stage("modulate"):
            unet_matrices = self.unet_modulator(scores)
            vae_matrices = self.vae_modulator(scores)
            if self.options.as_shipped:
                _walk_modules(self.unet, self.unet_lora)
                _walk_modules(self.vae, self.vae_lora)
            for path, layer in self.unet_lora.items():
                layer.modulation = unet_matrices[:, unet_block(path)]
            for path, layer in self.vae_lora.items():
                layer.modulation = vae_matrices[:, vae_block(path)]

    def _encode(self, x: torch.Tensor, noise: torch.Tensor, observe: Observer) -> torch.Tensor:
        tiles = encoder_tiles(x, self.options)
        note_call("vae_encoder", len(tiles))
        if len(tiles) == 1:
            encoded = self.vae.encoder(x)
        else:
            with self._housekeeping():
                encoded = run_tiled(encoder_steps(self.vae.encoder), x, tiles, 2 * noise.shape[1])
        mean, latent = posterior_latent(
            self.vae.quant_conv(encoded),
            noise,
            self.vae.config.scaling_factor,
            sample=self.options.posterior == "sample",
        )
        observe("latent_mean", mean)
        observe("latent", latent)
        return latent

    def _guided(
        self, latent: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor
    ) -> torch.Tensor:
        """Two UNet calls and classifier-free guidance."""
        timestep = torch.full((1,), TIMESTEP, dtype=torch.long, device=latent.device)
        note_call("unet", 2)
        eps_positive = self.unet(latent, timestep, encoder_hidden_states=positive).sample
        eps_negative = self.unet(latent, timestep, encoder_hidden_states=negative).sample
        eps: torch.Tensor = eps_negative + self.options.guidance * (eps_positive - eps_negative)
        return eps

    def _predict_noise(
        self, latent: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor
    ) -> torch.Tensor:
        tiles = unet_tiles(latent, self.options)
        if len(tiles.offsets) == 1:
            return self._guided(latent, positive, negative)
        side = tiles.tile_height
        weights = gaussian_weights(side).to(latent.device).expand(1, latent.shape[1], -1, -1)
        total = torch.zeros(latent.shape, device=latent.device)
        norm = torch.zeros(latent.shape, device=latent.device)
        for top, left in tiles.offsets:
            window = (..., slice(top, top + side), slice(left, left + side))
            predicted = replayed("tile", partial(self._guided, latent[window], positive, negative))
            total[window] += predicted * weights
            norm[window] += weights
        return total / norm

    def _decode(self, x0: torch.Tensor) -> torch.Tensor:
        latent = x0 / self.vae.config.scaling_factor
        z = self.vae.post_quant_conv(latent)
        tiles = decoder_tiles(z, self.options)
        note_call("vae_decoder", len(tiles))
        if len(tiles) == 1:
            decoded: torch.Tensor = self.vae.decoder(z)
            return decoded
        with self._housekeeping():
            return run_tiled(
                decoder_steps(self.vae.decoder), z, tiles, int(self.vae.config.out_channels)
            )

    def _fix_colors(self, output: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """On the CPU, between images truncated to 8 bits."""
        if self.options.color_fix == ColorFix.NONE:
            return output
        fix = {ColorFix.WAVELET: color_fix.wavelet, ColorFix.ADAIN: color_fix.adain}
        eight_bit = [
            color_fix.truncate_to_uint8(i if i.is_meta else i.cpu()).float().div(255)[None]
            for i in (output, source)
        ]
        return fix[self.options.color_fix](*eight_bit)[0]


def _walk_modules(network: torch.nn.Module, adapted: Mapping[str, torch.nn.Module]) -> None:
    """The published search for adapted layers: every module's name against a list."""
    names = list(adapted)
    for name, _ in network.named_modules():
        _ = name in names
