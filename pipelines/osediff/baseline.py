"""`osediff-baseline`: the published program's behaviour, step by step (commit fcc4f09)."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

from pipelines.contract import Observer, Precision, stage
from pipelines.diffusion.lora import AdaptedLayer, wrap_layers
from pipelines.diffusion.one_step import alpha_bar, predict_x0
from pipelines.osediff.options import BaselineOptions
from pipelines.osediff.pipeline import OSEDiffPipeline
from pipelines.stable_diffusion.baseline import BaselineOneStep
from pipelines.stable_diffusion.options import LORA_ALPHA, TIMESTEP
from pipelines.stable_diffusion.steps import to_unit_image
from pipelines.work import note_call

if TYPE_CHECKING:
    from pipelines.osediff.weights import Checkpoint


class OSEDiffBaseline(
    OSEDiffPipeline[BaselineOptions], BaselineOneStep[BaselineOptions, "Checkpoint"]
):
    """Per-tile execution, run-time LoRA, the prompt encoded each image.

    `fp16` keeps float32 weights under fp16 autocast.
    """

    name: ClassVar[str] = "osediff-baseline"
    version: ClassVar[str] = "1"
    Options: ClassVar[type] = BaselineOptions

    def _build(self, checkpoint: Checkpoint, device: torch.device, precision: Precision) -> None:
        arch = checkpoint.architecture
        with torch.device("meta"):
            self.unet = UNet2DConditionModel.from_config(arch.unet)
            self.vae = AutoencoderKL.from_config(arch.vae)
        self.unet.load_state_dict(checkpoint.unet, assign=True)
        self.vae.load_state_dict(checkpoint.vae, assign=True)
        for network, pairs, rank in (
            (self.unet, checkpoint.unet_lora, arch.rank_unet),
            (self.vae, checkpoint.vae_lora, arch.rank_vae),
        ):
            wrap_layers(network, pairs, LORA_ALPHA / rank, AdaptedLayer)
            network.to(device).eval().requires_grad_(False)
        if self.options.compile:
            for network in (self.unet, self.vae.encoder, self.vae.decoder):
                network.compile(dynamic=False)
        self.embed = self._prompt_source(checkpoint, device)
        self.alpha_bar = alpha_bar(TIMESTEP)
        self.autocast = precision is Precision.FP16

    def _infer(
        self, image: torch.Tensor, scale: int, noise: torch.Tensor, observe: Observer
    ) -> torch.Tensor:
        device = image.device.type
        with torch.autocast(device, torch.float16) if self.autocast else nullcontext():
            with stage("prompt"):
                text = self.embed()
            with stage("vae_encode"):
                latent = self._encode(image * 2 - 1, noise, observe)
            with stage("unet"):
                eps = self._predict_noise(latent, partial(self._predict, text=text))
                observe("eps", eps)
            with stage("scheduler"):
                x0 = predict_x0(latent, eps, self.alpha_bar)
                observe("x0", x0)
            with stage("vae_decode"):
                decoded = self._decode(x0)
        with stage("postprocess"):
            output = to_unit_image(decoded, *image.shape[-2:])
        with stage("color_fix"):
            return self._fix_colors(output, image[0])

    def _predict(self, latent: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        """One UNet call."""
        timestep = torch.full((1,), TIMESTEP, dtype=torch.long, device=latent.device)
        note_call("unet")
        eps: torch.Tensor = self.unet(latent, timestep, encoder_hidden_states=text).sample
        return eps
