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
from pipelines.diffusion.lora import wrap_layers
from pipelines.diffusion.one_step import alpha_bar, predict_x0
from pipelines.s3diff.degradation import DegradationEstimator, Modulator
from pipelines.s3diff.lora import ModulatedLora, unet_block, vae_block
from pipelines.s3diff.options import LORA_ALPHA, TIMESTEP, BaselineOptions
from pipelines.s3diff.pipeline import S3DiffPipeline
from pipelines.s3diff.steps import network_input, resize_input
from pipelines.stable_diffusion.baseline import BaselineOneStep
from pipelines.stable_diffusion.steps import to_unit_image
from pipelines.work import note_call, replayed

if TYPE_CHECKING:
    from pipelines.s3diff.weights import Checkpoint


class S3DiffBaseline(
    S3DiffPipeline[BaselineOptions], BaselineOneStep[BaselineOptions, "Checkpoint"]
):
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
        self.unet_lora = wrap_layers(
            self.unet, checkpoint.unet_lora, LORA_ALPHA / arch.rank_unet, ModulatedLora
        )
        self.vae_lora = wrap_layers(
            self.vae, checkpoint.vae_lora, LORA_ALPHA / arch.rank_vae, ModulatedLora
        )
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
                guided = partial(self._guided, positive=positive, negative=negative)
                eps = self._predict_noise(latent, guided)
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

    def _guided(
        self, latent: torch.Tensor, positive: torch.Tensor, negative: torch.Tensor
    ) -> torch.Tensor:
        """Two UNet calls and classifier-free guidance."""
        timestep = torch.full((1,), TIMESTEP, dtype=torch.long, device=latent.device)
        note_call("unet", 2)
        eps_positive, eps_negative = (
            replayed(
                ("prompt", latent.shape),
                lambda text=text: self.unet(latent, timestep, encoder_hidden_states=text).sample,  # type: ignore[misc]
            )
            for text in (positive, negative)
        )
        eps: torch.Tensor = eps_negative + self.options.guidance * (eps_positive - eps_negative)
        return eps


def _walk_modules(network: torch.nn.Module, adapted: Mapping[str, torch.nn.Module]) -> None:
    """The published search for adapted layers: every module's name against a list."""
    names = list(adapted)
    for name, _ in network.named_modules():
        _ = name in names
