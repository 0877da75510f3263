"""Blur kernels of Real-ESRGAN: Gaussians and their flatter relatives, and sinc filters."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from scipy.special import j1

Weights = NDArray[np.float64]
"""[side, side], adding up to 1."""


class Profile(StrEnum):
    """How a kernel falls with the squared Mahalanobis distance d2 (with exponent beta)."""

    GAUSSIAN = "gaussian"
    """exp(-d2 / 2)."""
    GENERALIZED = "generalized"
    """exp(-d2^beta / 2) (Liu et al., 2019)."""
    PLATEAU = "plateau"
    """1 / (1 + d2^beta)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlurKernel:
    """An elliptic kernel.

    Attributes:
        profile: Its cross section.
        size: Odd side.
        sigma_x_px: Standard deviation along its first axis.
        sigma_y_px: Along the second; equal in the isotropic families.
        rotation_rad: Of the first axis from x towards y.
        beta: Exponent; 1, and without effect, for a Gaussian.
    """

    profile: Profile
    size: int
    sigma_x_px: float
    sigma_y_px: float
    rotation_rad: float = 0.0
    beta: float = 1.0

    def weights(self) -> Weights:
        """[size, size], all positive."""
        return blur_kernel(
            self.profile, self.size, self.sigma_x_px, self.sigma_y_px, self.rotation_rad, self.beta
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SincKernel:
    """A circular low-pass filter, which leaves ringing.

    Attributes:
        size: Odd side.
        cutoff_rad: Angular frequency; pi is the Nyquist frequency.
    """

    size: int
    cutoff_rad: float

    def weights(self) -> Weights:
        """[size, size], with negative lobes."""
        return sinc_kernel(self.size, self.cutoff_rad)


Kernel = BlurKernel | SincKernel


def blur_kernel(
    profile: Profile,
    size: int,
    sigma_x_px: float,
    sigma_y_px: float,
    rotation_rad: float = 0.0,
    beta: float = 1.0,
) -> Weights:
    """Sample an elliptic kernel at the pixels' centres (basicsr `bivariate_*`).

    Args:
        profile: Cross section.
        size: Odd side.
        sigma_x_px: Standard deviation along the first axis, positive.
        sigma_y_px: Along the second.
        rotation_rad: Of the first axis from x towards y.
        beta: Exponent of the generalised Gaussian and of the plateau.
    """
    y, x = _offsets(size)
    along = x * np.cos(rotation_rad) + y * np.sin(rotation_rad)
    across = y * np.cos(rotation_rad) - x * np.sin(rotation_rad)
    squared = (along / sigma_x_px) ** 2 + (across / sigma_y_px) ** 2
    match profile:
        case Profile.GAUSSIAN:
            values = np.exp(-0.5 * squared)
        case Profile.GENERALIZED:
            values = np.exp(-0.5 * squared**beta)
        case Profile.PLATEAU:
            values = 1 / (1 + squared**beta)
    return _normalised(values)


def sinc_kernel(size: int, cutoff_rad: float) -> Weights:
    """Impulse response of the ideal circular low-pass filter, cut to a square.

    w J1(w r) / (2 pi r), and w^2 / (4 pi) at the centre (basicsr `circular_lowpass_kernel`).

    Args:
        size: Odd side.
        cutoff_rad: Cut-off w, more than 0, at most pi.
    """
    y, x = _offsets(size)
    radius = np.hypot(x, y)
    radius[size // 2, size // 2] = 1  # replaced by the limit below
    values = cutoff_rad * j1(cutoff_rad * radius) / (2 * np.pi * radius)
    values[size // 2, size // 2] = cutoff_rad**2 / (4 * np.pi)
    return _normalised(values)


def padded(weights: Weights, side: int) -> Weights:
    """The kernel in the middle of zeros, [side, side]; both sides odd."""
    return np.pad(weights, (side - len(weights)) // 2)


def delta(side: int) -> Weights:
    """The kernel that changes nothing, [side, side]."""
    return padded(np.ones((1, 1)), side)


def _offsets(size: int) -> tuple[Weights, Weights]:
    """Rows' and columns' distances from the centre, both [size, size]."""
    steps = np.arange(size, dtype=np.float64) - size // 2
    y, x = np.meshgrid(steps, steps, indexing="ij")
    return y, x


def _normalised(values: Weights) -> Weights:
    normalised: Weights = values / values.sum()
    return normalised
