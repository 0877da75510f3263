"""Learnable equivalent transformations: a scale and a shift that leave the function as it is.

x' = (x - δ) / s meets W' = W s, and what the shift took is added back: W x = W' x' + W δ.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

Tensor = torch.Tensor

SMALLEST_MAXIMUM = 1e-5


def smoothing_scale(numerator: Tensor, denominator: Tensor, alpha: float) -> Tensor:
    """(numerator / denominator)^alpha of two maxima of magnitudes, each at least 1e-5."""
    quotient = numerator.clamp(min=SMALLEST_MAXIMUM) / denominator.clamp(min=SMALLEST_MAXIMUM)
    return torch.as_tensor(quotient**alpha)


def taps_inside(
    size: int, taps: int, stride: int, padding: int, dilation: int, device: torch.device
) -> Tensor:
    """Which taps of a kernel lie inside the picture, by output position: [outputs, taps], bool."""
    outputs = (size + 2 * padding - dilation * (taps - 1) - 1) // stride + 1
    first = torch.arange(outputs, device=device) * stride - padding
    position = first[:, None] + torch.arange(taps, device=device) * dilation
    return (position >= 0) & (position < size)


def convolved_shift(
    shift: Tensor,
    weight: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """Convolution of the constant maps `shift` with zero padding, borders included.

    Args:
        shift: [1, C, 1, 1].
        weight: [O, C, kh, kw].
        size: Height and width of the picture.
        stride: Of the convolution, down and across; the same for the next two.
        padding: Zeros on each side.
        dilation: Between taps.

    Returns:
        [1, O, H', W'].
    """
    taps = (weight * shift).sum(1)
    rows, columns = (
        taps_inside(*of_side, taps.device).to(taps)
        for of_side in zip(size, weight.shape[-2:], stride, padding, dilation, strict=True)
    )
    return torch.as_tensor(rows @ taps @ columns.T)[None]
