"""Options and constants of one-step pipelines on Stable Diffusion 2.1; torch-free."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pipelines.contract import PipelineError, Rung

TIMESTEP = 999
"""The one step begins at the last of the thousand timesteps."""
LORA_ALPHA = 8.0
"""peft's default, which the published checkpoints rely on and do not store."""
VAE_FACTOR = 8
VAE_ENCODER_PAD = 32
"""Context around a tile of the encoder, in pixels (published "tiled VAE")."""
VAE_DECODER_PAD = 11
"""Context around a tile of the decoder, in latents."""
MIN_SIDE = 16

AUTO = 0
"""Value of `tile_batch` that leaves the choice to the pipeline."""


class ColorFix(StrEnum):
    """Transfer of the input's colours to the output."""

    WAVELET = "wavelet"
    ADAIN = "adain"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class OneStepOptions:
    """What the published one-step programs share; the defaults are theirs.

    Attributes:
        color_fix: `wavelet`, `adain` or `none`.
        latent_tile: Side of a UNet tile in latents.
        latent_overlap: Overlap of neighbouring UNet tiles in latents.
        vae_encoder_tile: Largest core of an encoder tile in pixels of the upscaled image.
        vae_decoder_tile: Largest core of a decoder tile in latents.
        posterior: `sample` draws the latent from the VAE posterior, `mode` takes its mean.
    """

    color_fix: ColorFix = ColorFix.WAVELET
    latent_tile: int = 96
    latent_overlap: int = 32
    vae_encoder_tile: int = 1024
    vae_decoder_tile: int = 224
    posterior: Literal["sample", "mode"] = "sample"

    def __post_init__(self) -> None:
        for name, least in (
            ("latent_tile", 8),
            ("latent_overlap", 0),
            ("vae_encoder_tile", 8),
            ("vae_decoder_tile", 1),
        ):
            require_at_least(name, getattr(self, name), least)
        if self.latent_overlap >= self.latent_tile:
            raise PipelineError(
                f"option latent_overlap={self.latent_overlap}: must be smaller than "
                f"latent_tile={self.latent_tile}"
            )


@dataclass(frozen=True, kw_only=True)
class Acceleration(OneStepOptions):
    """Switches that optimized one-step pipelines share, all on; mixed in behind a system's options.

    Each one is exact: switched off, the same function is computed the published way.

    Attributes:
        half_weights: With precision fp16: fp16 weights instead of float32 weights under autocast.
        cache_prompts: Encode the prompts once at load.
        merge_lora: Merge the adapters into dense weights.
        channels_last: NHWC memory format on CUDA.
        cudnn_autotune: Let cuDNN time its algorithms once for each new shape.
        fold_time: Fold the constant time embedding into the biases of the first convolutions.
        cache_text_kv: Compute the prompts' cross-attention keys and values beforehand.
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
        spill: Keep VAE tiles that wait in pinned host memory: `auto` where they would not fit.
        compile: `torch.compile` the UNet's blocks for prepared sizes, on top of all the others; off
            by default.
    """

    __slots__ = ()  # those of the class that it is mixed into hold them

    half_weights: bool = True
    cache_prompts: bool = True
    merge_lora: bool = True
    channels_last: bool = True
    cudnn_autotune: bool = True
    fold_time: bool = True
    cache_text_kv: bool = True
    fold_upsample: bool = True
    tile_batch: int = AUTO
    fused_norm: bool = True
    fused_pointwise: bool = True
    fused_qkv: bool = True
    fused_color_fix: bool = True
    pinned_transfers: bool = True
    cuda_graphs: bool = True
    chunked_attention: bool = True
    spill: Literal["auto", "never", "always"] = "auto"
    compile: bool = False

    def __post_init__(self) -> None:
        OneStepOptions.__post_init__(self)
        if self.tile_batch < 0:
            raise PipelineError(
                f"option tile_batch={self.tile_batch}: must be at least 1, or 0 for automatic"
            )


def require_at_least(name: str, value: int, least: int) -> None:
    """Raise PipelineError where an option's number is too small."""
    if value < least:
        raise PipelineError(f"option {name}={value}: must be at least {least}")


PICTURE_OPTIONS = frozenset({"color_fix", "latent_tile", "latent_overlap"})
"""Options that no network is built from: a loaded pipeline can change them."""

HALF_WEIGHTS = Rung("P2", "fp16 weights instead of autocast", {"half_weights": "true"})
CACHE_PROMPTS = Rung("P3", "prompts encoded once at load", {"cache_prompts": "true"})
LAYOUT = (
    Rung("P5-layout", "channels_last", {"channels_last": "true"}),
    Rung("P5", "cuDNN autotuned", {"cudnn_autotune": "true"}),
)
FOLD_TIME = Rung("P6-time", "time embedding folded into biases", {"fold_time": "true"})
UPSAMPLE_AND_BATCH = (
    Rung("P7", "upsampling folded into transposed convolutions", {"fold_upsample": "true"}),
    Rung("P8", "UNet tiles batched", {"tile_batch": str(AUTO)}),
)
KERNELS = (
    Rung("P9-norm", "GroupNorm, SiLU and bias in one kernel", {"fused_norm": "true"}),
    Rung("P9-pointwise", "GEGLU and residuals in one kernel", {"fused_pointwise": "true"}),
    Rung("P9-qkv", "one matrix product for Q, K and V", {"fused_qkv": "true"}),
    Rung("P9", "colour fix in one kernel an axis", {"fused_color_fix": "true"}),
)
TRANSFERS_AND_GRAPHS = (
    Rung("P10-transfers", "pinned asynchronous transfers", {"pinned_transfers": "true"}),
    Rung("P10", "UNet replayed from CUDA graphs", {"cuda_graphs": "true"}),
    Rung("P11", "VAE attention in chunks of queries", {"chunked_attention": "true"}),
)
COMPILE = Rung("C", "torch.compile, region by region", {"compile": "true"}, on_top=True)


def ladder(rungs: Iterable[Rung]) -> tuple[Rung, ...]:
    """Rungs behind the one that switches off all that they switch on."""
    rungs = tuple(rungs)
    switched = [name for rung in rungs for name in rung.options]
    off = {name: "1" if name == "tile_batch" else "false" for name in switched}
    return (Rung("P1", "tiles and colour fix stay on the device", off), *rungs)
