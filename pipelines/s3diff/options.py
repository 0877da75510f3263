"""Options and constants of S3Diff; torch-free, so that the harness can check options at once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pipelines.contract import PipelineError

POSITIVE_PROMPT = (
    "A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, "
    "and natural lighting."
)
NEGATIVE_PROMPT = (
    "oil painting, cartoon, blur, dirty, messy, low quality, deformation, low resolution, "
    "oversmooth"
)
TIMESTEP = 999
LORA_ALPHA = 8.0
"""peft's default, which the published checkpoint relies on and does not store."""
SIZE_MULTIPLE = 64
"""The upscaled image is padded to a multiple of this."""
VAE_FACTOR = 8
VAE_ENCODER_PAD = 32
"""Context around a tile of the encoder, in pixels (published "tiled VAE")."""
VAE_DECODER_PAD = 11
"""Context around a tile of the decoder, in latents."""
MIN_SIDE = 16


class ColorFix(StrEnum):
    """Transfer of the input's colours to the output."""

    WAVELET = "wavelet"
    ADAIN = "adain"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class S3DiffOptions:
    """What the published program exposes or hard-codes; the defaults are its own.

    Attributes:
        color_fix: `wavelet`, `adain` or `none`.
        guidance: Classifier-free guidance scale.
        latent_tile: Side of a UNet tile in latents.
        latent_overlap: Overlap of neighbouring UNet tiles in latents.
        vae_encoder_tile: Largest core of an encoder tile in pixels of the upscaled image.
        vae_decoder_tile: Largest core of a decoder tile in latents.
        resize: Interpolation to the output size.
        align_corners: Of that interpolation (the published history has both).
        posterior: `sample` draws the latent from the VAE posterior, `mode` takes its mean.
        positive_prompt: Conditional prompt.
        negative_prompt: Unconditional prompt.
    """

    color_fix: ColorFix = ColorFix.WAVELET
    guidance: float = 1.07
    latent_tile: int = 96
    latent_overlap: int = 32
    vae_encoder_tile: int = 1024
    vae_decoder_tile: int = 224
    resize: Literal["bilinear", "bicubic"] = "bilinear"
    align_corners: bool = False
    posterior: Literal["sample", "mode"] = "sample"
    positive_prompt: str = POSITIVE_PROMPT
    negative_prompt: str = NEGATIVE_PROMPT

    def __post_init__(self) -> None:
        for name, least in (
            ("latent_tile", 8),
            ("latent_overlap", 0),
            ("vae_encoder_tile", 8),
            ("vae_decoder_tile", 1),
        ):
            value = getattr(self, name)
            if value < least:
                raise PipelineError(f"option {name}={value}: must be at least {least}")
        if self.latent_overlap >= self.latent_tile:
            raise PipelineError(
                f"option latent_overlap={self.latent_overlap}: must be smaller than "
                f"latent_tile={self.latent_tile}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class BaselineOptions(S3DiffOptions):
    """Options of `s3diff-baseline`.

    Attributes:
        as_shipped: Also do what the published decorators do around each image and each tiled VAE
            call: empty the CUDA cache, collect garbage, walk all modules.
    """

    as_shipped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizedOptions(S3DiffOptions):
    """Options of `s3diff-optimized`: every optimization is one switch, all on by default.

    Each one is exact: switched off, the same function is computed the published way.

    Attributes:
        cache_prompts: Encode the two fixed prompts once at load.
        merge_lora: Merge the modulated adapters into dense weights once an image.
        fold_time: Fold the constant time embedding into the biases of the first convolutions.
        share_prefix: Compute the UNet up to its first cross-attention once for both prompts.
        cache_text_kv: Compute the prompts' cross-attention keys and values once an image.
        batch_prompts: Both prompts in one UNet batch.
        tile_batch: UNet tiles in one batch.
        channels_last: NHWC memory format on CUDA.
        device_color_fix: Telescoped colour fix on the device instead of two chains on the CPU.
    """

    cache_prompts: bool = True
    merge_lora: bool = True
    fold_time: bool = True
    share_prefix: bool = True
    cache_text_kv: bool = True
    batch_prompts: bool = True
    tile_batch: int = 8
    channels_last: bool = True
    device_color_fix: bool = True

    def __post_init__(self) -> None:
        S3DiffOptions.__post_init__(self)
        if self.tile_batch < 1:
            raise PipelineError(f"option tile_batch={self.tile_batch}: must be at least 1")
        if self.share_prefix and not self.batch_prompts:
            raise PipelineError("option share_prefix=true needs batch_prompts=true")
