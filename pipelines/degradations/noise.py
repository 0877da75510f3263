"""Gaussian and Poisson noise of one picture (basicsr `random_add_{gaussian,poisson}_noise_pt`)."""

from __future__ import annotations

import torch

from pipelines.degradations.plans import Noise, NoiseKind

_GRAY = (0.2989, 0.587, 0.114)
"""Luma weights of torchvision's `rgb_to_grayscale`, which the published program calls."""
_WHITE = 255


def add_noise(picture: torch.Tensor, noise: Noise, generator: torch.Generator) -> torch.Tensor:
    """Add noise and clamp.

    Args:
        picture: [1, 3, H, W] float32, about [0, 1].
        noise: What to add.
        generator: On the picture's device.

    Returns:
        [1, 3, H, W] in [0, 1].
    """
    draw = gaussian_noise if noise.kind is NoiseKind.GAUSSIAN else poisson_noise
    return (picture + draw(picture, noise.strength, noise.gray, generator)).clamp_(0, 1)


def gaussian_noise(
    picture: torch.Tensor, sigma_levels: float, gray: bool, generator: torch.Generator
) -> torch.Tensor:
    """Normal noise.

    Args:
        picture: [1, 3, H, W] float32.
        sigma_levels: Standard deviation in levels of 255.
        gray: One channel for all three.
        generator: On the picture's device.

    Returns:
        [1, 3, H, W], or [1, 1, H, W] where gray.
    """
    shape = (1, 1 if gray else 3, *picture.shape[-2:])
    noise = torch.randn(shape, generator=generator, device=picture.device)
    return noise.mul_(sigma_levels / _WHITE)


def poisson_noise(
    picture: torch.Tensor, scale: float, gray: bool, generator: torch.Generator
) -> torch.Tensor:
    """Shot noise: a Poisson count in place of each 8-bit value, less the value.

    White counts as the number of different values in the picture, rounded up to a power of two, as
    in scikit-image's `random_noise`: a picture of few values is noisier.

    Args:
        picture: [1, 3, H, W] float32, about [0, 1].
        scale: Factor of the noise.
        gray: Noise of the picture's luma, for all three channels.
        generator: On the picture's device.

    Returns:
        [1, 3, H, W], or [1, 1, H, W] where gray.
    """
    if gray:
        red, green, blue = picture.split(1, dim=1)
        picture = _GRAY[0] * red + _GRAY[1] * green + _GRAY[2] * blue
    levels = (picture * _WHITE).round_().clamp_(0, _WHITE)
    white = _power_of_two_above(_different_values(levels))
    mean = levels / _WHITE
    return (torch.poisson(mean * white, generator=generator) / white - mean) * scale


def _different_values(levels: torch.Tensor) -> torch.Tensor:
    """How many, a 0-dim integer tensor; `unique` would make the host wait for the device."""
    seen = torch.zeros(_WHITE + 1, dtype=torch.int32, device=levels.device)
    return seen.index_fill_(0, levels.long().flatten(), 1).sum()


def _power_of_two_above(count: torch.Tensor) -> torch.Tensor:
    """Smallest one that is not less, exactly."""
    exponent = torch.frexp((count - 1).float()).exponent
    return torch.ldexp(torch.ones((), device=count.device), exponent)
