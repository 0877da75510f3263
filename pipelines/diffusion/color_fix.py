"""Transfer of colours from the upscaled input to the output.

Wavelet and AdaIN colour correction as introduced by StableSR (Wang et al., IJCV 2024). Images are
[..., 3, H, W], float32 in [0, 1]. The published program works on images truncated to 8 bits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

LEVELS = 5


def truncate_to_uint8(image: torch.Tensor) -> torch.Tensor:
    """[0, 1] floats to uint8 by truncation, as torchvision's `ToPILImage` does."""
    return image.mul(255).to(torch.uint8)


def _blur(image: torch.Tensor, radius: int) -> torch.Tensor:
    """Depth-wise [1 2 1] x [1 2 1] / 16 with dilation `radius` and replicate padding."""
    row = torch.tensor([1.0, 2.0, 1.0], dtype=image.dtype, device=image.device)
    kernel = (row[:, None] * row[None, :] / 16).expand(3, 1, 3, 3)
    padded = F.pad(image, (radius,) * 4, mode="replicate")
    return F.conv2d(padded, kernel, groups=3, dilation=radius)


def _decompose(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    high = torch.zeros_like(image)
    for level in range(LEVELS):
        low = _blur(image, 2**level)
        high = high + (image - low)
        image = low
    return high, image


def wavelet(output: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """High frequencies of `output` over the low frequencies of `source`, level by level."""
    high, _ = _decompose(output)
    _, low = _decompose(source)
    return (high + low).clamp(0, 1)


def _separable_blur(image: torch.Tensor, radius: int) -> torch.Tensor:
    """The same blur as two passes of weighted slices: no convolution, no layout change."""
    for axis in (-1, -2):
        pad = (radius, radius, 0, 0) if axis == -1 else (0, 0, radius, radius)
        padded = F.pad(image, pad, mode="replicate")
        size = image.shape[axis]
        sides = padded.narrow(axis, 0, size) + padded.narrow(axis, 2 * radius, size)
        image = torch.add(sides, image, alpha=2.0).mul_(0.25)
    return image


def wavelet_telescoped(output: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """`wavelet` by one chain of blurs: output + low(source - output).

    The high bands telescope to output - low(output), and the low-pass is linear.
    """
    low = source - output
    for level in range(LEVELS):
        low = _separable_blur(low, 2**level)
    return low.add_(output).clamp_(0, 1)


def adain(output: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Mean and standard deviation of each channel of `output` become those of `source`."""

    def moments(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = image.flatten(-2)
        std = (flat.var(dim=-1) + 1e-5).sqrt()
        return flat.mean(dim=-1)[..., None, None], std[..., None, None]

    mean, std = moments(output)
    source_mean, source_std = moments(source)
    return ((output - mean) / std * source_std + source_mean).clamp(0, 1)
