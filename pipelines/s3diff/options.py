"""Options and constants of S3Diff; torch-free, so that the harness can check options at once."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Literal

from pipelines.contract import PipelineError, Rung

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
        compile: Compile the UNet, encoder and decoder as a user would in an afternoon: whole
            networks, adapters on their own path, one compilation a shape.
        as_shipped: Also do what the published decorators do around each image and each tiled VAE
            call: empty the CUDA cache, collect garbage, walk all modules.
    """

    as_shipped: bool = False
    compile: bool = False


PICTURE_OPTIONS = frozenset({"color_fix", "guidance", "latent_tile", "latent_overlap"})
"""Options that no network is built from: a loaded pipeline can change them."""

AUTO = 0
"""Value of `tile_batch` that leaves the choice to the pipeline."""

OPTIMIZED_RUNGS = (
    Rung(
        "P1",
        "tiles and colour fix stay on the device",
        {
            "half_weights": "false",
            "cache_prompts": "false",
            "merge_lora": "false",
            "channels_last": "false",
            "cudnn_autotune": "false",
            "fold_time": "false",
            "batch_prompts": "false",
            "share_prefix": "false",
            "cache_text_kv": "false",
            "fold_upsample": "false",
            "tile_batch": "1",
            "fused_norm": "false",
            "fused_pointwise": "false",
            "fused_qkv": "false",
            "fused_color_fix": "false",
            "cuda_graphs": "false",
            "pinned_transfers": "false",
            "chunked_attention": "false",
            "overlap_merge": "false",
            "compile": "false",
        },
    ),
    Rung("P2", "fp16 weights instead of autocast", {"half_weights": "true"}),
    Rung("P3", "prompts encoded once at load", {"cache_prompts": "true"}),
    Rung("P4", "adapters merged once an image", {"merge_lora": "true"}),
    Rung("P5-layout", "channels_last", {"channels_last": "true"}),
    Rung("P5", "cuDNN autotuned", {"cudnn_autotune": "true"}),
    Rung("P6-time", "time embedding folded into biases", {"fold_time": "true"}),
    Rung("P6-text", "prompt keys and values once an image", {"cache_text_kv": "true"}),
    Rung("P6-prompts", "both prompts in one batch", {"batch_prompts": "true"}),
    Rung("P6", "prefix shared by the prompts", {"share_prefix": "true"}),
    Rung("P7", "upsampling folded into transposed convolutions", {"fold_upsample": "true"}),
    Rung("P8", "UNet tiles batched", {"tile_batch": str(AUTO)}),
    Rung("P9-norm", "GroupNorm, SiLU and bias in one kernel", {"fused_norm": "true"}),
    Rung("P9-pointwise", "GEGLU and residuals in one kernel", {"fused_pointwise": "true"}),
    Rung("P9-qkv", "one matrix product for Q, K and V", {"fused_qkv": "true"}),
    Rung("P9", "colour fix in one kernel an axis", {"fused_color_fix": "true"}),
    Rung("P10-transfers", "pinned asynchronous transfers", {"pinned_transfers": "true"}),
    Rung("P10", "UNet replayed from CUDA graphs", {"cuda_graphs": "true"}),
    Rung("P11", "VAE attention in chunks of queries", {"chunked_attention": "true"}),
    Rung("P12", "adapters merged beside the VAE encoder", {"overlap_merge": "true"}),
    Rung("C", "torch.compile, region by region", {"compile": "true"}, on_top=True),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizedOptions(S3DiffOptions):
    """Options of `s3diff-optimized`: every optimization is one switch, all on but `compile`.

    Each one is exact: switched off, the same function is computed the published way.

    Attributes:
        half_weights: With precision fp16: fp16 weights instead of float32 weights under autocast.
        cache_prompts: Encode the two fixed prompts once at load.
        merge_lora: Merge the modulated adapters into dense weights once an image.
        channels_last: NHWC memory format on CUDA.
        cudnn_autotune: Let cuDNN time its algorithms once for each new shape.
        fold_time: Fold the constant time embedding into the biases of the first convolutions.
        cache_text_kv: Compute the prompts' cross-attention keys and values once an image.
        batch_prompts: Both prompts in one UNet batch.
        share_prefix: Compute the UNet up to its first cross-attention once for both prompts, where
            they are in one batch.
        fold_upsample: Nearest upsampling and the 3x3 convolution behind it as one transposed
            convolution (4/9 of the operations); in the UNet where adapters are merged.
        tile_batch: UNet tiles in one batch; 0 lets the card and its free memory decide.
        fused_norm: GroupNorm, SiLU and the bias of the convolution before it in Triton kernels.
        fused_pointwise: GEGLU, and bias with residual, in Triton kernels.
        fused_qkv: One matrix product for the queries, keys and values of self-attention, where
            adapters are merged.
        fused_color_fix: The wavelet colour fix as one Triton kernel an axis.
        pinned_transfers: Images through pinned host memory, asynchronously.
        cuda_graphs: Replay the UNet of prepared sizes from CUDA graphs, where the prompts' keys and
            values are kept.
        chunked_attention: The VAE's 512-wide attention in chunks of queries, never all scores.
        overlap_merge: Modulate the UNet's adapters on a side stream while the VAE encodes.
        spill: Keep VAE tiles that wait in pinned host memory: `auto` where they would not fit.
        compile: `torch.compile` the UNet's blocks for prepared sizes, on top of all the others.
    """

    RUNGS: ClassVar[tuple[Rung, ...]] = OPTIMIZED_RUNGS

    half_weights: bool = True
    cache_prompts: bool = True
    merge_lora: bool = True
    channels_last: bool = True
    cudnn_autotune: bool = True
    fold_time: bool = True
    cache_text_kv: bool = True
    batch_prompts: bool = True
    share_prefix: bool = True
    fold_upsample: bool = True
    tile_batch: int = AUTO
    fused_norm: bool = True
    fused_pointwise: bool = True
    fused_qkv: bool = True
    fused_color_fix: bool = True
    pinned_transfers: bool = True
    cuda_graphs: bool = True
    chunked_attention: bool = True
    overlap_merge: bool = True
    spill: Literal["auto", "never", "always"] = "auto"
    compile: bool = False

    @staticmethod
    def predicted_seconds(card: str, precision: str) -> dict[str, dict[str, float]]:
        """Step -> case -> predicted seconds; see `pipelines.s3diff.predictions`."""
        from pipelines.s3diff.predictions import predicted_seconds

        return predicted_seconds(card, precision)

    def __post_init__(self) -> None:
        S3DiffOptions.__post_init__(self)
        if self.tile_batch < 0:
            raise PipelineError(
                f"option tile_batch={self.tile_batch}: must be at least 1, or 0 for automatic"
            )
