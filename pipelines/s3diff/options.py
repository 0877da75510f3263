"""Options and constants of S3Diff; torch-free, so that the harness can check options at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from pipelines.contract import Rung
from pipelines.stable_diffusion.options import (
    AUTO,
    CACHE_PROMPTS,
    COMPILE,
    FOLD_TIME,
    HALF_WEIGHTS,
    KERNELS,
    LAYOUT,
    LORA_ALPHA,
    MIN_SIDE,
    TIMESTEP,
    TRANSFERS_AND_GRAPHS,
    UPSAMPLE_AND_BATCH,
    VAE_FACTOR,
    Acceleration,
    ColorFix,
    OneStepOptions,
    ladder,
)
from pipelines.stable_diffusion.options import PICTURE_OPTIONS as SHARED_PICTURE_OPTIONS

__all__ = [
    "AUTO",
    "LORA_ALPHA",
    "MIN_SIDE",
    "NEGATIVE_PROMPT",
    "OPTIMIZED_RUNGS",
    "PICTURE_OPTIONS",
    "POSITIVE_PROMPT",
    "SIZE_MULTIPLE",
    "TIMESTEP",
    "VAE_FACTOR",
    "BaselineOptions",
    "ColorFix",
    "OptimizedOptions",
    "S3DiffOptions",
]

POSITIVE_PROMPT = (
    "A high-resolution, 8K, ultra-realistic image with sharp focus, vibrant colors, "
    "and natural lighting."
)
NEGATIVE_PROMPT = (
    "oil painting, cartoon, blur, dirty, messy, low quality, deformation, low resolution, "
    "oversmooth"
)
SIZE_MULTIPLE = 64
"""The upscaled image is padded to a multiple of this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class S3DiffOptions(OneStepOptions):
    """What the published program exposes or hard-codes; the defaults are its own.

    Attributes:
        guidance: Classifier-free guidance scale.
        resize: Interpolation to the output size.
        align_corners: Of that interpolation (the published history has both).
        positive_prompt: Conditional prompt.
        negative_prompt: Unconditional prompt.
    """

    guidance: float = 1.07
    resize: Literal["bilinear", "bicubic"] = "bilinear"
    align_corners: bool = False
    positive_prompt: str = POSITIVE_PROMPT
    negative_prompt: str = NEGATIVE_PROMPT


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


PICTURE_OPTIONS = SHARED_PICTURE_OPTIONS | {"guidance"}
"""Options that no network is built from: a loaded pipeline can change them."""

OPTIMIZED_RUNGS = ladder(
    (
        HALF_WEIGHTS,
        CACHE_PROMPTS,
        Rung("P4", "adapters merged once an image", {"merge_lora": "true"}),
        *LAYOUT,
        FOLD_TIME,
        Rung("P6-text", "prompt keys and values once an image", {"cache_text_kv": "true"}),
        Rung("P6-prompts", "both prompts in one batch", {"batch_prompts": "true"}),
        Rung("P6", "prefix shared by the prompts", {"share_prefix": "true"}),
        *UPSAMPLE_AND_BATCH,
        *KERNELS,
        *TRANSFERS_AND_GRAPHS,
        Rung("P12", "adapters merged beside the VAE encoder", {"overlap_merge": "true"}),
        COMPILE,
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizedOptions(S3DiffOptions, Acceleration):
    """Options of `s3diff-optimized`: every optimization is one switch, all on but `compile`.

    Attributes:
        batch_prompts: Both prompts in one UNet batch.
        share_prefix: Compute the UNet up to its first cross-attention once for both prompts, where
            they are in one batch.
        overlap_merge: Modulate the UNet's adapters on a side stream while the VAE encodes.
    """

    RUNGS: ClassVar[tuple[Rung, ...]] = OPTIMIZED_RUNGS

    batch_prompts: bool = True
    share_prefix: bool = True
    overlap_merge: bool = True

    @staticmethod
    def predicted_seconds(card: str, precision: str) -> dict[str, dict[str, float]]:
        """Step -> case -> predicted seconds; see `pipelines.s3diff.predictions`."""
        from pipelines.s3diff.predictions import predicted_seconds

        return predicted_seconds(card, precision)
