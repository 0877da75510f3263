"""S3Diff as it is trained: adapters learn, everything else stays as it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from pipelines.diffusion.lora import wrap_layers
from pipelines.diffusion.one_step import alpha_bar, predict_x0
from pipelines.s3diff.degradation import DegradationEstimator, Modulator
from pipelines.s3diff.lora import ModulatedLora, unet_block, vae_block
from pipelines.s3diff.options import (
    LORA_ALPHA,
    NEGATIVE_PROMPT,
    POSITIVE_PROMPT,
    TIMESTEP,
    VAE_FACTOR,
)
from pipelines.s3diff.weights import Checkpoint
from pipelines.stable_diffusion.steps import posterior_latent

Tensors = dict[str, torch.Tensor]
POSITIVE, NEGATIVE = 0, 1
"""Numbers of the prompts."""


class TrainableS3Diff(nn.Module):
    """One-step restoration of whole crops, differentiable in what S3Diff trains.

    diffusers' own networks, as in `s3diff-baseline`. Trained are the adapters of the UNet and of
    the VAE encoder, the UNet's `conv_in`, the modulators' six MLPs and their two tables of block
    embeddings: 34,475,120 numbers at the published size. The base networks, the decoder, the
    degradation network and the Fourier frequencies are frozen; the text encoder is dropped once the
    two prompts are encoded.

    Adapters stay on a path of their own, so that samples of a batch may be degraded differently.

    Args:
        checkpoint: Where training begins; trained tensors are copied.
        gradient_checkpointing: Compute activations again in the backward pass.

    Attributes:
        architecture: Of the checkpoint.
    """

    def __init__(self, checkpoint: Checkpoint, *, gradient_checkpointing: bool = False) -> None:
        super().__init__()
        sizes = checkpoint.architecture
        self.architecture = sizes
        with torch.device("meta"):
            self.unet = UNet2DConditionModel.from_config(sizes.unet)
            self.vae = AutoencoderKL.from_config(sizes.vae)
            self.estimator = DegradationEstimator(
                sizes.degradation_width, sizes.degradation_wide, sizes.degradation_hidden
            )
        self.unet.load_state_dict(checkpoint.unet, assign=True)
        self.vae.load_state_dict(checkpoint.vae, assign=True)
        self.estimator.load_state_dict(checkpoint.degradation, assign=True)
        if gradient_checkpointing:
            self.unet.enable_gradient_checkpointing()
            self.vae.enable_gradient_checkpointing()
        self._unet_layers = wrap_layers(
            self.unet, checkpoint.unet_lora, LORA_ALPHA / sizes.rank_unet, ModulatedLora
        )
        self._vae_layers = wrap_layers(
            self.vae, checkpoint.vae_lora, LORA_ALPHA / sizes.rank_vae, ModulatedLora
        )
        self.unet_modulator = Modulator(checkpoint.modulation, "unet", sizes.rank_unet)
        self.vae_modulator = Modulator(checkpoint.modulation, "vae", sizes.rank_vae)
        self.register_buffer("prompts", _encoded_prompts(checkpoint), persistent=False)
        self.prompts: torch.Tensor
        self._choose_trained()
        self.unet.conv_out = _InFloat32(self.unet.conv_out)
        self.vae.encoder.conv_out = _InFloat32(self.vae.encoder.conv_out)
        self.vae.quant_conv = _InFloat32(self.vae.quant_conv)
        self._scaling = float(sizes.vae["scaling_factor"])
        self._alpha_bar = alpha_bar(TIMESTEP)

    def forward(
        self, lr: torch.Tensor, x: torch.Tensor, prompts: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        """Restore a batch: untiled, one prompt a sample, no guidance, the posterior sampled.

        Args:
            lr: [B, 3, h, w] in [0, 1]: what the degradation network looks at.
            x: [B, 3, H, W] in [-1, 1]: the upsampled input; sides multiples of 64.
            prompts: [B] of `POSITIVE` and `NEGATIVE`.
            noise: [B, C, H/8, W/8] standard normal, of the VAE's posterior.

        Returns:
            [B, 3, H, W] in [-1, 1], float32.
        """
        self._modulate(lr)
        moments = self.vae.quant_conv(self.vae.encoder(x))
        _, latent = posterior_latent(moments, noise, self._scaling, sample=True)
        timestep = torch.full((1,), TIMESTEP, dtype=torch.long, device=x.device)
        text = self.prompts[prompts]
        eps = self.unet(latent, timestep, encoder_hidden_states=text).sample
        x0 = predict_x0(latent, eps, self._alpha_bar)
        decoded = self.vae.decoder(self.vae.post_quant_conv(x0 / self._scaling))
        return torch.as_tensor(decoded.float().clamp(-1, 1))

    def latent_shape(self, size: Sequence[int]) -> tuple[int, int, int]:
        """Channels, height and width of the latent of a picture of that height and width."""
        height, width = size
        channels = int(self.architecture.vae["latent_channels"])
        return channels, height // VAE_FACTOR, width // VAE_FACTOR

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the generator's optimizer updates, in an order that never changes."""
        return [p for p in self.parameters() if p.requires_grad]

    def trained_tensors(self) -> dict[str, Tensors]:
        """Live tensors by the group and name of `pipelines.s3diff.expected`.

        `state_dict_unet`, `state_dict_vae` and `modulation` (with the frozen `w`).
        """
        conv_in = {f"conv_in.{n}": p for n, p in self.unet.conv_in.named_parameters()}
        return {
            "state_dict_unet": conv_in | _pairs(self._unet_layers, "default"),
            "state_dict_vae": _pairs(self._vae_layers, "vae_skip"),
            "modulation": {
                "w": self.unet_modulator.frequencies,
                **_modulator_tensors("vae", self.vae_modulator),
                **_modulator_tensors("unet", self.unet_modulator),
            },
        }

    @torch.no_grad()
    def load_trained_tensors(self, content: dict[str, Tensors]) -> None:
        """Inverse of `trained_tensors`, in place."""
        for group, tensors in self.trained_tensors().items():
            for name, tensor in tensors.items():
                tensor.copy_(content[group][name])
        self.vae_modulator.frequencies.copy_(content["modulation"]["w"])

    def store_frozen(self, dtype: torch.dtype) -> None:
        """Keep the frozen layers of UNet and VAE in the dtype that autocast computes them in.

        Autocast would cast frozen float32 weights at every use. Layers whose rounding the one-step
        formula multiplies by 14.6 (the last ones of the encoder and of the UNet) stay in float32.
        """
        for network in (self.unet, self.vae):
            exempt = {
                part for m in network.modules() if isinstance(m, _InFloat32) for part in m.modules()
            }
            for module in network.modules():
                if module not in exempt and isinstance(module, nn.Linear | nn.Conv2d):
                    module.to(module.weight.dtype if module.weight.requires_grad else dtype)

    def _modulate(self, lr: torch.Tensor) -> None:
        """In float32: scores and matrices are small, and everything hangs on them."""
        with torch.autocast(lr.device.type, enabled=False):
            with torch.no_grad():
                scores = self.estimator(lr)
            unet, vae = self.unet_modulator(scores), self.vae_modulator(scores)
        for path, layer in self._unet_layers.items():
            layer.modulation = unet[:, unet_block(path)]
        for path, layer in self._vae_layers.items():
            layer.modulation = vae[:, vae_block(path)]

    def _choose_trained(self) -> None:
        self.requires_grad_(False)
        for layer in (*self._unet_layers.values(), *self._vae_layers.values()):
            layer.down = nn.Parameter(layer.down.clone())
            layer.up = nn.Parameter(layer.up.clone())
        for modulator in (self.unet_modulator, self.vae_modulator):
            modulator.frequencies = modulator.frequencies.clone()
            modulator.blocks = nn.Parameter(modulator.blocks.clone())
            for mlp in (modulator.de_mlp, modulator.block_mlp, modulator.fuse_mlp):
                _copy_parameters(mlp)
        _copy_parameters(self.unet.conv_in)


class _InFloat32(nn.Module):
    """A layer that autocast leaves alone."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.autocast(x.device.type, enabled=False):
            return torch.as_tensor(self.layer(x.float()))


def _copy_parameters(module: nn.Module) -> None:
    """Trainable copies: the checkpoint's tensors may be part of a mapped file."""
    for name, parameter in list(module.named_parameters()):
        setattr(module, name, nn.Parameter(parameter.detach().clone()))


def _encoded_prompts(checkpoint: Checkpoint) -> torch.Tensor:
    """[2, 77, width]."""
    device = next(iter(checkpoint.text_encoder.values())).device
    encode = checkpoint.prompt_encoder(device)
    with torch.no_grad():
        return torch.cat([encode(POSITIVE_PROMPT), encode(NEGATIVE_PROMPT)])


def _pairs(layers: dict[str, ModulatedLora], adapter: str) -> Tensors:
    tensors: Tensors = {}
    for path, layer in layers.items():
        tensors[f"{path}.lora_A.{adapter}.weight"] = layer.down
        tensors[f"{path}.lora_B.{adapter}.weight"] = layer.up
    return tensors


def _modulator_tensors(net: str, modulator: Modulator) -> Tensors:
    return {
        f"{net}_de_mlp.0.weight": modulator.de_mlp.weight,
        f"{net}_de_mlp.0.bias": modulator.de_mlp.bias,
        f"{net}_block_mlp.0.weight": modulator.block_mlp.weight,
        f"{net}_block_mlp.0.bias": modulator.block_mlp.bias,
        f"{net}_fuse_mlp.weight": modulator.fuse_mlp.weight,
        f"{net}_fuse_mlp.bias": modulator.fuse_mlp.bias,
        f"{net}_block_embeddings.weight": modulator.blocks,
    }
