"""The sizes of an S3Diff checkpoint: all that may differ from one set of weights to another."""

from __future__ import annotations

from dataclasses import dataclass

from pipelines.stable_diffusion.architecture import StableDiffusion, published_json

UNET_LORA_TARGETS = (
    "to_k",
    "to_q",
    "to_v",
    "to_out.0",
    "conv",
    "conv1",
    "conv2",
    "conv_shortcut",
    "conv_out",
    "proj_in",
    "proj_out",
    "ff.net.2",
    "ff.net.0.proj",
)
VAE_LORA_TARGETS = (
    r"^encoder\..*(conv1|conv2|conv_in|conv_shortcut|conv|conv_out|to_k|to_q|to_v|to_out\.0)$"
)


@dataclass(frozen=True, slots=True)
class Architecture(StableDiffusion):
    """Sizes of all networks of one checkpoint.

    Attributes:
        rank_unet: Rank of the UNet's LoRA.
        rank_vae: Rank of the VAE encoder's LoRA.
        unet_lora_targets: A UNet layer is adapted when its path is one of these or ends in one
            after a dot.
        vae_lora_targets: A VAE layer is adapted when this expression matches its whole path.
        degradation_width: Channels of the degradation network before its stride-2 convolution.
        degradation_wide: Channels behind it.
        degradation_hidden: Hidden width of its two score heads.
        fourier_features: Length of the fixed Gaussian vector `w`; the degradation features are
            four times as long.
        degradation_features: Output width of the degradation MLPs.
        block_embedding: Length of a block's embedding.
        block_features: Output width of the block MLPs.
    """

    rank_unet: int = 32
    rank_vae: int = 16
    unet_lora_targets: tuple[str, ...] = UNET_LORA_TARGETS
    vae_lora_targets: str = VAE_LORA_TARGETS
    degradation_width: int = 64
    degradation_wide: int = 128
    degradation_hidden: int = 512
    fourier_features: int = 64
    degradation_features: int = 256
    block_embedding: int = 64
    block_features: int = 64

    @property
    def unet_blocks(self) -> int:
        """Rows of the UNet's block embedding: down blocks, middle, up blocks, everything else."""
        return len(self.unet["down_block_types"]) + len(self.unet["up_block_types"]) + 2

    @property
    def vae_blocks(self) -> int:
        """Rows of the VAE's block embedding: encoder down blocks, middle, everything else."""
        return len(self.vae["down_block_types"]) + 2

    @classmethod
    def published(cls) -> Architecture:
        """The architecture of `zhangap/S3Diff` on `stabilityai/sd-turbo`."""
        return cls(
            unet=published_json("unet/config.json"),
            vae=published_json("vae/config.json"),
            text_encoder=published_json("text_encoder/config.json"),
        )
