"""Distances of float arrays, which need neither torch nor a metrics library."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

FLOAT_MSE_FLOOR = 1e-16
"""Added to the mean squared error of float pictures: equal ones read 160 dB."""


def psnr_float(reference: Floats, candidate: Floats) -> float:
    """PSNR in dB of pictures in [0, 1] before rounding, in float64."""
    mse = float(np.square(reference.astype(np.float64) - candidate).mean())
    return -10 * math.log10(mse + FLOAT_MSE_FLOOR)


def relative_l2(reference: Floats, candidate: Floats) -> float:
    """L2 norm of the difference over that of the reference, of arrays of any shape.

    Raises:
        ValueError: They differ in size, or the reference is all zeros.
    """
    if reference.size != candidate.size:
        raise ValueError(f"{reference.size} values of one arm against {candidate.size}")
    theirs = reference.astype(np.float64).ravel()
    scale = float(np.linalg.norm(theirs))
    if scale == 0:
        raise ValueError("the reference's predicted noise is all zeros")
    return float(np.linalg.norm(candidate.ravel() - theirs)) / scale
