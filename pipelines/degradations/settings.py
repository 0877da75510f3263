"""Probabilities and ranges of the degradation, by default those that S3Diff was trained with."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from pipelines.contract import PipelineError

Range = tuple[float, float]
"""Lowest and highest value of a uniform draw."""

FAMILY_NAMES = (
    "iso",
    "aniso",
    "generalized_iso",
    "generalized_aniso",
    "plateau_iso",
    "plateau_aniso",
)
"""Of blur kernels, in the order of `Order.family_probabilities`."""

_SUM_TOLERANCE = 1e-6


def _check_probabilities(settings: Any) -> None:
    for f in fields(settings):
        value = getattr(settings, f.name)
        if f.name.endswith("_probability") and not 0 <= value <= 1:
            raise PipelineError(f"{f.name} {value}: probabilities are 0 to 1")
        if f.name.endswith("_probabilities") and not (
            min(value) >= 0 and abs(math.fsum(value) - 1) < _SUM_TOLERANCE
        ):
            raise PipelineError(f"{f.name} {value}: must not be negative, and add up to 1")


def _check_ranges(settings: Any) -> None:
    for f in fields(settings):
        if "_range" not in f.name:
            continue
        low, high = getattr(settings, f.name)
        if not (math.isfinite(low) and math.isfinite(high) and low <= high):
            raise PipelineError(f"{f.name} {(low, high)}: expected the lower end, then the higher")


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One of the two rounds of blur, resizing, noise and JPEG (spec section 6; `configs/sr.yaml`).

    Attributes:
        blur_probability: Of any blur.
        sinc_probability: Of a sinc filter in place of a kernel of a family.
        family_probabilities: One for each of `FAMILY_NAMES`.
        sigma_range_px: Standard deviation of the kernels; both axes of the anisotropic ones.
        rotation_range_rad: Of the anisotropic ones.
        betag_range: Exponent of the generalised Gaussian, below 1 in half of the draws and above 1
            in the others.
        betap_range: Exponent of the plateau, by the same rule.
        resize_probabilities: To enlarge, to reduce, to keep.
        resize_range: Smallest and largest factor; of the second order they are relative to LR.
        gaussian_probability: Of Gaussian noise in place of Poisson noise.
        gaussian_sigma_range_levels: Its standard deviation, in levels of 255.
        poisson_scale_range: Factor of the Poisson noise.
        gray_probability: That all three channels get the same noise.
        jpeg_quality_range: Of JPEG.
    """

    blur_probability: float
    sinc_probability: float = 0.1
    family_probabilities: tuple[float, ...] = (0.45, 0.25, 0.12, 0.03, 0.12, 0.03)
    sigma_range_px: Range
    rotation_range_rad: Range = (-math.pi, math.pi)
    betag_range: Range = (0.5, 2.0)
    betap_range: Range = (1.0, 1.5)
    resize_probabilities: tuple[float, float, float]
    resize_range: Range
    gaussian_probability: float = 0.5
    gaussian_sigma_range_levels: Range
    poisson_scale_range: Range
    gray_probability: float = 0.4
    jpeg_quality_range: Range

    def __post_init__(self) -> None:
        if len(self.family_probabilities) != len(FAMILY_NAMES):
            raise PipelineError(
                f"family_probabilities {self.family_probabilities}: expected {len(FAMILY_NAMES)} "
                f"numbers, of {', '.join(FAMILY_NAMES)}"
            )
        _check_probabilities(self)
        _check_ranges(self)
        for name in ("sigma_range_px", "resize_range", "betag_range", "betap_range"):
            if getattr(self, name)[0] <= 0:
                raise PipelineError(f"{name} {getattr(self, name)}: must be positive")
        for name in ("resize_range", "betag_range", "betap_range"):
            low, high = getattr(self, name)
            if not low <= 1 <= high:
                raise PipelineError(f"{name} {(low, high)}: must contain 1, both sides are drawn")
        for name in ("gaussian_sigma_range_levels", "poisson_scale_range"):
            if getattr(self, name)[0] < 0:
                raise PipelineError(f"{name} {getattr(self, name)}: must not be negative")
        if not 1 <= self.jpeg_quality_range[0] <= self.jpeg_quality_range[1] <= 100:
            raise PipelineError(
                f"jpeg_quality_range {self.jpeg_quality_range}: qualities are 1 to 100"
            )


FIRST_ORDER = Order(
    blur_probability=1.0,
    sigma_range_px=(0.2, 1.5),
    resize_probabilities=(0.2, 0.7, 0.1),
    resize_range=(0.3, 1.5),
    gaussian_sigma_range_levels=(1.0, 15.0),
    poisson_scale_range=(0.05, 2.0),
    jpeg_quality_range=(60.0, 95.0),
)
SECOND_ORDER = Order(
    blur_probability=0.5,
    sigma_range_px=(0.2, 1.0),
    resize_probabilities=(0.3, 0.4, 0.3),
    resize_range=(0.6, 1.2),
    gaussian_sigma_range_levels=(1.0, 12.0),
    poisson_scale_range=(0.05, 1.0),
    jpeg_quality_range=(60.0, 100.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The whole degradation.

    Attributes:
        scale: HR sides are divided by it.
        first: On the HR grid.
        second: On the LR grid.
        kernel_size_range: Odd sides of kernels, all as likely; `blur_kernel_size` of the published
            configuration is unused there, both orders draw from 7 to 21.
        sinc_cutoff_range_rad: Of sinc kernels smaller than `wide_sinc_from`, and of the final one.
        wide_sinc_cutoff_range_rad: Of the others.
        wide_sinc_from: Side from which a sinc kernel may cut off more.
        final_sinc_probability: Of a sinc filter at the end.
        jpeg_last_probability: That the second JPEG comes after the last resizing and the final
            sinc, not before them.
    """

    scale: int = 4
    first: Order = field(default=FIRST_ORDER)
    second: Order = field(default=SECOND_ORDER)
    kernel_size_range: tuple[int, int] = (7, 21)
    sinc_cutoff_range_rad: Range = (math.pi / 3, math.pi)
    wide_sinc_cutoff_range_rad: Range = (math.pi / 5, math.pi)
    wide_sinc_from: int = 13
    final_sinc_probability: float = 0.8
    jpeg_last_probability: float = 0.5

    def __post_init__(self) -> None:
        _check_probabilities(self)
        _check_ranges(self)
        if self.scale < 1:
            raise PipelineError(f"scale {self.scale}: must be positive")
        smallest, largest = self.kernel_size_range
        if smallest < 1 or not smallest % 2 or not largest % 2:
            raise PipelineError(f"kernel_size_range {self.kernel_size_range}: odd sides expected")
        for name in ("sinc_cutoff_range_rad", "wide_sinc_cutoff_range_rad"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= math.pi:
                raise PipelineError(f"{name} {(low, high)}: cut-offs are more than 0, at most pi")

    @property
    def kernel_side(self) -> int:
        """Side that every kernel is padded to."""
        return self.kernel_size_range[1]
