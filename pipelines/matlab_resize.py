"""Bicubic resizing as MATLAB's `imresize` does it, which made the data of super-resolution.

Keys' cubic with a = -0.5, stretched when reducing (antialiasing), half-sample symmetric borders,
vertical pass before horizontal. Only the taps that are not zero are gathered, in float64 and in a
fixed order, so results are the same on every machine.
"""

from __future__ import annotations

from fractions import Fraction
from functools import lru_cache
from math import ceil
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

_SUPPORT = 4
"""Width of the cubic kernel, in samples of the coarser grid."""
_LARGEST_DENOMINATOR = 1 << 16

Pixel = TypeVar("Pixel", np.uint8, np.float32, np.float64)


def imresize(image: NDArray[Pixel], scale: Fraction | float) -> NDArray[Pixel]:
    """Resize a picture by one factor along both sides.

    Args:
        image: [H, W] or [H, W, C], uint8, float32 or float64 of any range.
        scale: Factor; a float stands for the nearest simple fraction, so 1 / 3 is a third.

    Returns:
        [ceil(scale H), ceil(scale W)(, C)] of the same dtype. uint8 is clipped and rounded half to
        even after each of the two passes, as MATLAB's; floats are never clipped.

    Raises:
        ValueError: Another dtype or shape, an empty picture, or a scale that is not positive.
    """
    if image.ndim not in (2, 3) or 0 in image.shape:
        raise ValueError(f"a picture of shape {image.shape}, expected [H, W] or [H, W, C]")
    if image.dtype not in (np.uint8, np.float32, np.float64):
        raise ValueError(f"pixels of {image.dtype}, expected uint8, float32 or float64")
    factor = _exact(scale)
    rows = _resize_rows(image, factor)
    columns = _resize_rows(np.ascontiguousarray(rows.swapaxes(0, 1)), factor)
    result = np.ascontiguousarray(columns.swapaxes(0, 1))
    return result.astype(image.dtype, copy=False)


def output_size(length: int, scale: Fraction | float) -> int:
    """Side of the resized picture, ceil(scale x length), without rounding errors of the scale."""
    return ceil(_exact(scale) * length)


def upsample_lr(lr: NDArray[np.uint8], scale: int, *, divisor: int = 256) -> NDArray[np.float64]:
    """The upsampled LR picture to which SRDiff adds its residual.

    The published weights were trained with LR / 256 although HR and LR themselves are divided by
    255, so this picture is darker by 255 / 256 (spec section 5, the authors' loaders).

    Args:
        lr: [h, w, 3] uint8.
        scale: Upscaling factor.
        divisor: 256 as published, 255 without the shift.

    Returns:
        [scale h, scale w, 3] float64, about [-1, 1]: neither rounded nor clipped, so edges
        overshoot.
    """
    return 2 * imresize(lr / np.float64(divisor), scale) - 1


def _exact(scale: Fraction | float) -> Fraction:
    factor = Fraction(scale).limit_denominator(_LARGEST_DENOMINATOR)
    if factor <= 0:
        raise ValueError(f"scale {scale}, expected a positive factor")
    return factor


def _resize_rows(image: NDArray[Any], factor: Fraction) -> NDArray[Any]:
    """One pass along the first axis: uint8 stays uint8, anything else becomes float64."""
    positions, weights = _taps(image.shape[0], factor)
    lines = image.reshape(image.shape[0], -1)
    total = np.zeros((len(weights), lines.shape[1]))
    for tap in range(weights.shape[1]):
        total += weights[:, tap, None] * lines[positions[:, tap]]
    if image.dtype == np.uint8:
        total = np.rint(total.clip(0, 255, out=total), out=total).astype(np.uint8)
    return total.reshape(len(weights), *image.shape[1:])


@lru_cache(maxsize=64)
def _taps(length: int, factor: Fraction) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Inputs and weights of each output sample, both [outputs, taps]; weights sum to 1."""
    outputs = ceil(factor * length)
    shrink = min(float(factor), 1.0)
    support = _SUPPORT / shrink
    centre = np.arange(1, outputs + 1) / float(factor) + 0.5 * (1 - 1 / float(factor))
    first = np.floor(centre - support / 2)
    position = first[:, None] + np.arange(ceil(support) + 2)
    weights = shrink * _cubic(shrink * (centre[:, None] - position))
    weights /= weights.sum(axis=1, keepdims=True)
    mirrored = np.concatenate([np.arange(length), np.arange(length)[::-1]])
    indices = mirrored[(position.astype(np.intp) - 1) % (2 * length)]
    used = weights.any(axis=0)
    return indices[:, used], weights[:, used]


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    x = np.abs(distance)
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x <= 1, near, np.where(x <= 2, far, 0.0))
