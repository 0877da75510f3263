"""`s3diff-optimized`: the same function, with the work that repeats or waits removed.

Every optimization is exact and one named option (see `OptimizedOptions`); with `fp16` the weights
are fp16 while the noise prediction, guidance, blend and scheduler step stay float32, because the
one-step formula multiplies their errors by 14.6.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import torch
from torch import nn

from pipelines.contract import Observer, Precision, stage
from pipelines.diffusion import color_fix
from pipelines.diffusion.one_step import alpha_bar, predict_x0
from pipelines.diffusion.tiling import gaussian_weights
from pipelines.s3diff.degradation import DegradationEstimator, Modulator
from pipelines.s3diff.geometry import decoder_tiles, encoder_tiles, unet_tiles
from pipelines.s3diff.lora import LoraMerger, ModulatedLora, unet_block, vae_block, wrap_layers
from pipelines.s3diff.options import (
    TIMESTEP,
    ColorFix,
    OptimizedOptions,
)
from pipelines.s3diff.pipeline import S3DiffPipeline
from pipelines.s3diff.prompt import PromptEncoder
from pipelines.s3diff.steps import network_input, posterior_latent, resize_input, to_unit_image
from pipelines.s3diff.unet import TextKV, UNet
from pipelines.s3diff.vae import Vae, run_lockstep
from pipelines.work import note_call

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pipelines.s3diff.weights import Checkpoint, LoraPair

Network = TypeVar("Network", bound=nn.Module)


class Adapters:
    """The modulated adapters of one network, merged into its weights or on their own path."""

    def __init__(
        self,
        network: nn.Module,
        state: Mapping[str, torch.Tensor],
        pairs: Mapping[str, LoraPair],
        rank: int,
        block: Callable[[str], int],
        *,
        merge: bool,
    ) -> None:
        self._block = block
        self._merger: LoraMerger | None = None
        self._wrapped: dict[str, ModulatedLora] = {}
        if merge:
            self._merger = LoraMerger(network, state, pairs, rank, block)
            return
        self._wrapped = wrap_layers(network, pairs, rank)
        for layer in self._wrapped.values():
            layer.to(next(layer.base.parameters()))

    def modulate(self, matrices: torch.Tensor) -> None:
        """Set the image's modulation matrices [1, blocks, r, r]."""
        if self._merger is not None:
            self._merger.merge(matrices)
        for path, layer in self._wrapped.items():
            layer.modulation = matrices[:, self._block(path)]


class S3DiffOptimized(S3DiffPipeline[OptimizedOptions]):
    """Lock-step tiles on the device, merged adapters, batched tiles and prompts."""

    name: ClassVar[str] = "s3diff-optimized"
    version: ClassVar[str] = "1"
    Options: ClassVar[type] = OptimizedOptions

    _blend_key: object = None
    _blend_shares: torch.Tensor

    def _build(self, checkpoint: Checkpoint, device: torch.device, precision: Precision) -> None:
        arch, options = checkpoint.architecture, self.options
        dtype = torch.float16 if precision is Precision.FP16 else torch.float32
        with torch.device("meta"):
            unet, vae = UNet(arch.unet, TIMESTEP), Vae(arch.vae)
            estimator = DegradationEstimator(
                arch.degradation_width, arch.degradation_wide, arch.degradation_hidden
            )
        self.unet = self._place(unet, checkpoint.unet, device, dtype, [unet.conv_out])
        exact = [vae.encoder.conv_out, vae.quant_conv, vae.post_quant_conv]
        self.vae = self._place(vae, checkpoint.vae, device, dtype, exact)
        heads = [estimator.fc_degree]
        self.estimator = self._place(estimator, checkpoint.degradation, device, dtype, heads)
        self.unet_modulator = Modulator(checkpoint.modulation, "unet", arch.rank_unet).to(device)
        self.vae_modulator = Modulator(checkpoint.modulation, "vae", arch.rank_vae).to(device)
        merge = options.merge_lora
        self.unet_adapters = Adapters(
            self.unet, checkpoint.unet, checkpoint.unet_lora, arch.rank_unet, unet_block,
            merge=merge,
        )  # fmt: skip
        self.vae_adapters = Adapters(
            self.vae, checkpoint.vae, checkpoint.vae_lora, arch.rank_vae, vae_block, merge=merge
        )
        if options.fold_time:
            self.unet.fold_time()
        self.encode_prompt = PromptEncoder(checkpoint, device)
        self.prompts: torch.Tensor | None = None
        if options.cache_prompts:
            self.prompts = self._encode_prompts()
            del self.encode_prompt
        self.alpha_bar = alpha_bar(TIMESTEP)
        self.scaling_factor = float(arch.vae["scaling_factor"])
        self.dtype = dtype

    def _place(
        self,
        network: Network,
        state: Mapping[str, torch.Tensor],
        device: torch.device,
        dtype: torch.dtype,
        float32_layers: list[Any],
    ) -> Network:
        """Give a meta network storage of its own and copy the checkpoint into it."""
        network.to(dtype)
        for layer in float32_layers:
            layer.to(torch.float32)
        network.to_empty(device=device).eval().requires_grad_(False)
        if self.options.channels_last and device.type == "cuda":
            network.to(memory_format=torch.channels_last)
        network.load_state_dict(state)
        return network

    def _encode_prompts(self) -> torch.Tensor:
        """Positive and negative embedding, [2, 77, width]."""
        texts = (self.options.positive_prompt, self.options.negative_prompt)
        return torch.cat([self.encode_prompt(text) for text in texts])

    def _infer(
        self, image: torch.Tensor, scale: int, noise: torch.Tensor, observe: Observer
    ) -> torch.Tensor:
        with stage("preprocess"):
            upscaled = resize_input(image, scale, self.options)
            x = network_input(upscaled).to(self.dtype)
        with stage("degradation"):
            scores = self.estimator(image.to(self.dtype))
            observe("deg_score", scores)
        with stage("modulate"):
            self.vae_adapters.modulate(self.vae_modulator(scores))
            self.unet_adapters.modulate(self.unet_modulator(scores))
        with stage("prompt"):
            prompts = self._encode_prompts() if self.prompts is None else self.prompts
        with stage("vae_encode"):
            latent = self._encode(x, noise, observe)
        with stage("unet"):
            eps = self._predict_noise(latent, prompts.to(self.dtype))
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

    def _encode(self, x: torch.Tensor, noise: torch.Tensor, observe: Observer) -> torch.Tensor:
        tiles = encoder_tiles(x, self.options)
        note_call("vae_encoder", len(tiles))
        mean, latent = posterior_latent(
            self.vae.quant_conv(run_lockstep(self.vae.encoder, x, tiles)),
            noise,
            self.scaling_factor,
            sample=self.options.posterior == "sample",
        )
        observe("latent_mean", mean)
        observe("latent", latent)
        return latent

    def _predict_noise(self, latent: torch.Tensor, prompts: torch.Tensor) -> torch.Tensor:
        """Guided noise of the whole latent, float32."""
        geometry = unet_tiles(latent, self.options)
        text = self.unet.text_keys_values(prompts) if self.options.cache_text_kv else None
        height, width = geometry.tile_height, geometry.tile_width
        windows = [
            (..., slice(top, top + height), slice(left, left + width))
            for top, left in geometry.offsets
        ]
        if len(windows) == 1:
            return self._guided(latent, prompts, text)
        blend = self._blend(geometry.offsets, height, latent)
        eps = torch.zeros_like(latent)
        step = self.options.tile_batch
        for start in range(0, len(windows), step):
            members = windows[start : start + step]
            tiles = torch.cat([latent[window] for window in members])
            predicted = self._guided(tiles, prompts, text)
            for index, window in enumerate(members):
                eps[window] += predicted[index : index + 1] * blend[start + index]
        return eps

    def _blend(
        self, offsets: tuple[tuple[int, int], ...], side: int, latent: torch.Tensor
    ) -> torch.Tensor:
        """Blend weights of the last geometry, kept on the device from image to image."""
        key = (offsets, side, latent.shape)
        if self._blend_key != key:
            shares = _blend_weights(offsets, side, *latent.shape[-2:])
            self._blend_key, self._blend_shares = key, shares.to(latent.device, latent.dtype)
        return self._blend_shares

    def _guided(
        self, tiles: torch.Tensor, prompts: torch.Tensor, text: list[TextKV] | None
    ) -> torch.Tensor:
        """Classifier-free guidance over a batch of tiles [B, C, h, w], float32."""
        text = self.unet.text_keys_values(prompts) if text is None else text
        note_call("unet", 2 * tiles.shape[0])
        x = tiles.to(self.dtype)
        if self.options.batch_prompts:
            positive, negative = self.unet(x, text, share_prefix=self.options.share_prefix)
        else:
            positive, negative = (
                self.unet(x, [(k[i : i + 1], v[i : i + 1]) for k, v in text], share_prefix=False)[0]
                for i in range(2)
            )
        return torch.as_tensor(negative + self.options.guidance * (positive - negative))

    def _decode(self, x0: torch.Tensor) -> torch.Tensor:
        z = self.vae.post_quant_conv(x0 / self.scaling_factor).to(self.dtype)
        tiles = decoder_tiles(z, self.options)
        note_call("vae_decoder", len(tiles))
        return run_lockstep(self.vae.decoder, z, tiles)

    def _fix_colors(self, output: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
        """Between images truncated to 8 bits, as published."""
        fix = self.options.color_fix
        if fix == ColorFix.NONE:
            return output
        on_device = self.options.device_color_fix or output.is_meta
        eight_bit = [
            color_fix.truncate_to_uint8(i if on_device else i.cpu()).float().div(255)[None]
            for i in (output, source)
        ]
        if fix == ColorFix.ADAIN:
            return color_fix.adain(*eight_bit)[0]
        wavelet = color_fix.wavelet_telescoped if on_device else color_fix.wavelet
        return wavelet(*eight_bit)[0]


def _blend_weights(
    offsets: tuple[tuple[int, int], ...], side: int, height: int, width: int
) -> torch.Tensor:
    """Weights of each tile divided by their sum over tiles, [tiles, side, side], float64.

    Divided in float64 once: in corners the raw weights are 3e-10.
    """
    weights = gaussian_weights(side)
    total = torch.zeros(height, width, dtype=torch.float64)
    for top, left in offsets:
        total[top : top + side, left : left + side] += weights
    shares = [weights / total[top : top + side, left : left + side] for top, left in offsets]
    return torch.stack(shares)
