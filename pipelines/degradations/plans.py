"""Everything that happens to one picture, drawn from its seed before any pixel is touched."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from pipelines.degradations.kernels import BlurKernel, Kernel, Profile, SincKernel
from pipelines.degradations.settings import FAMILY_NAMES, Order, Range, Settings

_PROFILES = (Profile.GAUSSIAN, Profile.GENERALIZED, Profile.PLATEAU)
_FAMILIES = {
    name: (_PROFILES[index // 2], name.endswith("aniso")) for index, name in enumerate(FAMILY_NAMES)
}
"""Name -> profile, and whether its axes differ."""


class Filter(StrEnum):
    """How a picture is resized: PyTorch's modes, without antialiasing."""

    AREA = "area"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


class NoiseKind(StrEnum):
    """Distribution of the noise."""

    GAUSSIAN = "gaussian"
    POISSON = "poisson"


@dataclass(frozen=True, slots=True)
class Resize:
    """Factor (of the second order: relative to LR) and filter of a resizing."""

    factor: float
    filter: Filter


@dataclass(frozen=True, slots=True)
class Noise:
    """Noise of one order.

    Attributes:
        kind: Its distribution.
        strength: Standard deviation in levels of 255, or the factor of Poisson noise.
        gray: Whether all channels get the same.
    """

    kind: NoiseKind
    strength: float
    gray: bool


@dataclass(frozen=True, slots=True)
class OrderPlan:
    """One round, in this order; `kernel` is None where nothing is blurred."""

    kernel: Kernel | None
    resize: Resize
    noise: Noise
    jpeg_quality: float


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is drawn for one picture; its text form says it in one line.

    Attributes:
        seed: It was drawn from.
        first: On the HR grid.
        second: On the LR grid.
        final_filter: Of the resizing to LR.
        final_sinc: After it; None for none.
        jpeg_last: The second JPEG comes after these two.
        noise_seed: Of the device's generator.
    """

    seed: int
    first: OrderPlan
    second: OrderPlan
    final_filter: Filter
    final_sinc: SincKernel | None
    jpeg_last: bool
    noise_seed: int


def plan(seed: int, settings: Settings) -> Plan:
    """Draw the degradation of one picture.

    The published program draws families, sizes, strengths and qualities for each picture, but
    resizings, kinds of noise and the order of the last steps once a batch; here all are a
    picture's own, so that it does not depend on its neighbours.

    Args:
        seed: Not negative.
        settings: Probabilities and ranges.
    """
    draw = np.random.default_rng(seed)
    noise_seed = int(draw.integers(2**63))
    first = _order(draw, settings.first, settings)
    second = _order(draw, settings.second, settings)
    final_filter = _filter(draw)
    final_sinc = None
    if _happens(draw, settings.final_sinc_probability):
        final_sinc = SincKernel(
            size=_kernel_size(draw, settings),
            cutoff_rad=_uniform(draw, settings.sinc_cutoff_range_rad),
        )
    jpeg_last = _happens(draw, settings.jpeg_last_probability)
    return Plan(seed, first, second, final_filter, final_sinc, jpeg_last, noise_seed)


def _order(draw: np.random.Generator, order: Order, settings: Settings) -> OrderPlan:
    kernel = None
    if _happens(draw, order.blur_probability):
        kernel = _kernel(draw, order, settings)
    return OrderPlan(
        kernel, _resize(draw, order), _noise(draw, order), _uniform(draw, order.jpeg_quality_range)
    )


def _kernel(draw: np.random.Generator, order: Order, settings: Settings) -> Kernel:
    size = _kernel_size(draw, settings)
    if _happens(draw, order.sinc_probability):
        wide = size >= settings.wide_sinc_from
        cutoffs = settings.wide_sinc_cutoff_range_rad if wide else settings.sinc_cutoff_range_rad
        return SincKernel(size=size, cutoff_rad=_uniform(draw, cutoffs))
    family = FAMILY_NAMES[_choice(draw, order.family_probabilities)]
    profile, anisotropic = _FAMILIES[family]
    sigma_x = sigma_y = _uniform(draw, order.sigma_range_px)
    rotation = 0.0
    if anisotropic:
        sigma_y = _uniform(draw, order.sigma_range_px)
        rotation = _uniform(draw, order.rotation_range_rad)
    beta = 1.0
    if profile is not Profile.GAUSSIAN:
        generalized = profile is Profile.GENERALIZED
        beta = _beta(draw, order.betag_range if generalized else order.betap_range)
    return BlurKernel(
        profile=profile,
        size=size,
        sigma_x_px=sigma_x,
        sigma_y_px=sigma_y,
        rotation_rad=rotation,
        beta=beta,
    )


def _kernel_size(draw: np.random.Generator, settings: Settings) -> int:
    smallest, largest = settings.kernel_size_range
    return smallest + 2 * int(draw.integers((largest - smallest) // 2 + 1))


def _beta(draw: np.random.Generator, limits: Range) -> float:
    """Half of all exponents are below 1, wherever 1 lies between the limits (as published)."""
    low, high = limits
    return _uniform(draw, (low, 1.0) if _happens(draw, 0.5) else (1.0, high))


def _resize(draw: np.random.Generator, order: Order) -> Resize:
    low, high = order.resize_range
    ranges = ((1.0, high), (low, 1.0), (1.0, 1.0))
    factor = _uniform(draw, ranges[_choice(draw, order.resize_probabilities)])
    return Resize(factor, _filter(draw))


def _noise(draw: np.random.Generator, order: Order) -> Noise:
    if _happens(draw, order.gaussian_probability):
        kind, strengths = NoiseKind.GAUSSIAN, order.gaussian_sigma_range_levels
    else:
        kind, strengths = NoiseKind.POISSON, order.poisson_scale_range
    return Noise(kind, _uniform(draw, strengths), _happens(draw, order.gray_probability))


def _filter(draw: np.random.Generator) -> Filter:
    return list(Filter)[int(draw.integers(len(Filter)))]


def _happens(draw: np.random.Generator, probability: float) -> bool:
    return bool(draw.random() < probability)


def _uniform(draw: np.random.Generator, limits: Range) -> float:
    return float(draw.uniform(*limits))


def _choice(draw: np.random.Generator, probabilities: tuple[float, ...]) -> int:
    return int(draw.choice(len(probabilities), p=probabilities))
