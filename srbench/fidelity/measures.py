"""The metrics of SRDiff's paper that no metrics library computes as its authors did.

They take uint8 pictures, [H, W, 3] RGB.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from pipelines.matlab_resize import imresize
from srbench import __version__
from srbench.fidelity.floats import FLOAT_MSE_FLOOR
from srbench.fidelity.metrics import METRICS
from srbench.fidelity.providers import Measurement

Picture = NDArray[np.uint8]
OWN = frozenset({"ssim_skimage", "lr_psnr", "diversity"})
"""Metrics of this module; the others are a library's."""


def own_version(metric: str) -> str:
    """What computes a metric of `OWN`, for telling values of different versions apart."""
    from importlib.metadata import version

    library = f"scikit-image {version('scikit-image')}, " if metric == "ssim_skimage" else ""
    return f"{library}{_own(metric)}"


def skimage_ssim(sr: Picture, hr: Picture) -> Measurement:
    """SSIM as the authors of SRDiff report it, [-1, 1]."""
    from importlib.metadata import version

    from skimage.metrics import structural_similarity

    provider = f"scikit-image {version('scikit-image')} ({METRICS['ssim_skimage'].variant})"
    try:
        value = float(structural_similarity(sr, hr, channel_axis=2, data_range=255))
    except ValueError as error:  # smaller than its window
        return Measurement(None, f"scikit-image failed ({error.args[0]})", provider)
    return Measurement(value, None, provider)


def lr_psnr(sr: Picture, lr: Picture, scale: int, origin: str) -> Measurement:
    """How well a picture keeps to its input: PSNR in dB of what it shrinks to.

    Args:
        sr: The output.
        lr: The input, as large as `sr` shrunk: sides divided by `scale`, rounded up.
        scale: Whole factor.
        origin: Where `lr` comes from, for the definition.
    """
    small = imresize(sr, Fraction(1, scale))
    error = np.square(lr.astype(np.float64) - small).mean() / 255**2
    value = -10 * math.log10(float(error) + FLOAT_MSE_FLOOR)
    return Measurement(value, None, _own("lr_psnr", origin))


class Diversity:
    """How much samples of one input differ; exact, and only two pictures of sums are kept."""

    def __init__(self) -> None:
        """Start without samples."""
        self._count = 0
        self._sum: NDArray[np.int64] | np.int64 = np.int64(0)
        self._squares: NDArray[np.int64] | np.int64 = np.int64(0)

    def add(self, sample: Picture) -> None:
        """Count one more sample, all of one shape."""
        values = sample.astype(np.int64)
        self._sum = self._sum + values
        self._squares = self._squares + values * values
        self._count += 1

    def measure(self) -> Measurement:
        """Standard deviation in levels of 0-255, 0 to 127.5."""
        provider = _own("diversity")
        if self._count < 2:
            reason = "needs several samples: SR_DIR/sample-0000, SR_DIR/sample-0001, …"
            return Measurement(None, reason, provider)
        spread = self._count * self._squares - self._sum * self._sum
        return Measurement(float(np.sqrt(spread).mean()) / self._count, None, provider)


def _own(metric: str, *details: str) -> str:
    return f"srbench {__version__} ({'; '.join((METRICS[metric].variant, *details))})"
