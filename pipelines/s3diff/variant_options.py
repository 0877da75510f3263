"""Options of the variants of `s3diff-optimized` that compute another function; torch-free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from pipelines.contract import PipelineError, Rung
from pipelines.s3diff.options import OptimizedOptions

WHOLE_IMAGE = 1 << 20
"""A tile side that no image reaches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _VariantOptions(OptimizedOptions):
    """Options of a variant: no ladder, whose predictions are of the exact function."""

    RUNGS: ClassVar[tuple[Rung, ...]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tile128Options(_VariantOptions):
    """Options of `s3diff-tile128`: those of `s3diff-optimized`, UNet tiles of 128 latents."""

    latent_tile: int = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class UntiledVaeOptions(_VariantOptions):
    """Options of `s3diff-untiled-vae`: those of `s3diff-optimized`, one VAE tile an image."""

    vae_encoder_tile: int = WHOLE_IMAGE
    vae_decoder_tile: int = WHOLE_IMAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class TrueGroupNormOptions(_VariantOptions):
    """Options of `s3diff-true-groupnorm`: those of `s3diff-optimized`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8NegativeOptions(_VariantOptions):
    """Options of `s3diff-int8-negative`: those of `s3diff-optimized`, less what int8 stands on.

    The negative prompt is the second half of a batch, and its integers are made of merged weights
    in the UNet's own dtype, so those three cannot be switched off.
    """

    def __post_init__(self) -> None:
        OptimizedOptions.__post_init__(self)
        for name in ("merge_lora", "batch_prompts", "half_weights"):
            if not getattr(self, name):
                raise PipelineError(
                    f"option {name}=false: s3diff-int8-negative needs it; "
                    "switch it off in s3diff-optimized"
                )
