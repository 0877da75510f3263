"""Variants of `s3diff-optimized` that compute another function, each named and in tier `approx`.

What they may change is bounded by the one-step formula, which multiplies errors of the UNet's
output by 14.6: fp16 there costs about 46 dB, bf16 28 dB and int8 15 dB (predicted on random
weights). So nothing in any UNet here is bf16, and int8 runs only where guidance weighs it by 0.07.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from pipelines import kernels
from pipelines.contract import Precision, Tier
from pipelines.s3diff.int8 import NegativeInt8Linear, quantize_negative
from pipelines.s3diff.optimized import S3DiffOptimized
from pipelines.s3diff.variant_options import (
    Int8NegativeOptions,
    Tile128Options,
    TrueGroupNormOptions,
    UntiledVaeOptions,
)
from pipelines.stable_diffusion.merged_norm import MergedGroupNorm

if TYPE_CHECKING:
    from pipelines.s3diff.weights import Checkpoint

_APPROX = {Precision.FP32: Tier.APPROX, Precision.FP16: Tier.APPROX}


class S3DiffTile128(S3DiffOptimized):
    """UNet tiles of 128 latents instead of 96, with the same overlap of 32.

    Fewer latents are computed twice: one of 128x128 (512x512 at x2) is one tile instead of four, 23
    TFLOP instead of 30. But self-attention sees more: at 1920x1080 x2 it is 263 instead of 245.
    """

    name: ClassVar[str] = "s3diff-tile128"
    version: ClassVar[str] = "1"
    Options: ClassVar[type] = Tile128Options
    tiers: ClassVar[dict[Precision, Tier]] = _APPROX


class S3DiffUntiledVae(S3DiffOptimized):
    """The VAE over the whole image: no seams, statistics and attention of the whole.

    The attention over all latents costs more than the overlaps save (counted: encoder and
    decoder 171 instead of 129 TFLOP at 1920x1080 x2); the UNet stays tiled.
    """

    name: ClassVar[str] = "s3diff-untiled-vae"
    version: ClassVar[str] = "1"
    Options: ClassVar[type] = UntiledVaeOptions
    tiers: ClassVar[dict[Precision, Tier]] = _APPROX


def union_statistics(statistics: Sequence[torch.Tensor], areas: Sequence[int]) -> torch.Tensor:
    """Mean and biased variance of all values of all tiles together, by the law of total variance.

    The published merge averages the tiles' variances and leaves out how far their means are apart.

    Args:
        statistics: Per tile [1, groups, 2]: mean and biased variance, float32 or wider.
        areas: Per tile its pixels.

    Returns:
        [1, groups, 2], in the dtype of the statistics.
    """
    merged = kernels.merge_statistics(list(statistics), list(areas))
    apart = (torch.stack(list(statistics)) - merged).square()
    between = kernels.merge_statistics(list(apart.unbind()), list(areas))[..., 0]
    return torch.stack([merged[..., 0], merged[..., 1] + between], dim=-1)


class S3DiffTrueGroupNorm(S3DiffOptimized):
    """The tiled VAE normalised by the exact statistics of the union of its tiles.

    The tiles are taken as they are, with their context: a pixel that two tiles hold counts twice,
    as it does in the published averages. Only the variance between the tiles' means is added.
    """

    name: ClassVar[str] = "s3diff-true-groupnorm"
    version: ClassVar[str] = "1"
    Options: ClassVar[type] = TrueGroupNormOptions
    tiers: ClassVar[dict[Precision, Tier]] = _APPROX

    def _build(self, checkpoint: Checkpoint, device: torch.device, precision: Precision) -> None:
        super()._build(checkpoint, device, precision)
        for module in self.vae.modules():
            if isinstance(module, MergedGroupNorm):
                module.merge = union_statistics


class S3DiffInt8Negative(S3DiffOptimized):
    """Linear layers below the top level in int8 for the negative prompt, which weighs 0.07.

    The positive prompt is computed as in `s3diff-optimized`. See `pipelines.s3diff.int8`.
    """

    name: ClassVar[str] = "s3diff-int8-negative"
    version: ClassVar[str] = "1"
    Options: ClassVar[type] = Int8NegativeOptions
    tiers: ClassVar[dict[Precision, Tier]] = _APPROX

    int8_layers: Sequence[NegativeInt8Linear] = ()

    def _build(self, checkpoint: Checkpoint, device: torch.device, precision: Precision) -> None:
        super()._build(checkpoint, device, precision)
        self.int8_layers = quantize_negative(self.unet)

    def _modulate_unet(self, matrices: torch.Tensor) -> None:
        super()._modulate_unet(matrices)
        for layer in self.int8_layers:
            layer.requantize()
