"""What S3Diff's generator and discriminator are trained to make small (spec section 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import nn

from pipelines.contract import PipelineError

REAL_TARGET = 0.8
"""Label of real pictures, and of the generator's when it is the generator's turn: smoothed."""

FAKE_TARGET = 0.0


@dataclass(frozen=True, slots=True)
class LossWeights:
    """Weights of the losses; the defaults are the published ones.

    Attributes:
        mse: Of the mean squared error.
        lpips: Of LPIPS; 0 to train without its network.
        gan: Of the discriminator's judgement, in the steps of both networks.
    """

    mse: float = 2.0
    lpips: float = 5.0
    gan: float = 0.5

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not 0 <= value < math.inf:
                raise PipelineError(f"{field.name} {value}: must not be negative")


@dataclass(frozen=True, slots=True)
class Reconstruction:
    """The reconstruction loss and what it is made of; scalars, float32.

    Attributes:
        total: Weighted sum, to be differentiated.
        mse: Mean squared error, detached.
        lpips: Mean LPIPS, detached; 0 where it has no weight.
    """

    total: torch.Tensor
    mse: torch.Tensor
    lpips: torch.Tensor


def reconstruction_loss(
    output: torch.Tensor, target: torch.Tensor, lpips: nn.Module | None, weights: LossWeights
) -> Reconstruction:
    """Distance of the generator's pictures from what they should be, mean over the batch.

    Args:
        output: [B, 3, H, W] in [-1, 1], any floating dtype.
        target: The same, of the same size.
        lpips: `pipelines.perceptual.Lpips`, [B] distances; not used, and may be None, where its
            weight is 0.
        weights: Of the two terms.
    """
    output, target = output.float(), target.float()
    mse = F.mse_loss(output, target)
    total, perceptual = weights.mse * mse, torch.zeros_like(mse)
    if weights.lpips:
        if lpips is None:
            raise PipelineError(f"loss weight lpips = {weights.lpips}: needs the LPIPS network")
        perceptual = lpips(output, target).mean()
        total = total + weights.lpips * perceptual
    return Reconstruction(total, mse.detach(), perceptual.detach())


def multilevel_bce(logits: Sequence[torch.Tensor], target: float) -> torch.Tensor:
    """Binary cross-entropy: mean over places and batch, summed over levels.

    As `multilevel_sigmoid_s` of vision-aided-gan (Kumari et al., CVPR 2022).

    Args:
        logits: One tensor a level, [B, ...], any floating dtype.
        target: Label in [0, 1]: `REAL_TARGET` or `FAKE_TARGET`.

    Returns:
        A scalar, float32.
    """
    levels = [level.float() for level in logits]
    return torch.stack(
        [F.binary_cross_entropy_with_logits(x, torch.full_like(x, target)) for x in levels]
    ).sum()
