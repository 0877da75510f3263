"""Nearest upsampling by 2 and the 3x3 convolution behind it, as one transposed convolution.

Each output pixel sees only 2x2 different inputs, so 4/9 of the multiplications remain. The border
is exact: both forms read zeros around the input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F


def fold_upsample(weight: torch.Tensor) -> torch.Tensor:
    """Weight [O, I, 3, 3] of the convolution -> weight [I, O, 4, 4] of the transposed one.

    Sums of up to four weights, in the dtype of `weight`: fold before rounding.
    """
    return _spread(_spread(weight, 2), 3).transpose(0, 1)


def _spread(weight: torch.Tensor, dim: int) -> torch.Tensor:
    """Three taps -> four: sums of those that fall on the same input, in the transposed order."""
    first, middle, last = weight.unbind(dim)
    return torch.stack([last, middle + last, first + middle, first], dim)


def upsample_conv(x: torch.Tensor, folded: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """[B, I, H, W] -> [B, O, 2H, 2W] with a weight of `fold_upsample`."""
    return F.conv_transpose2d(x, folded, bias, stride=2, padding=1)
