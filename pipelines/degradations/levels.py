"""Blur and noise of known strength, to teach a degradation network what it is to tell."""

from __future__ import annotations

import torch

from pipelines.degradations.filtering import filter_pictures

_RADIUS_PX = 12
"""Of the kernels: three standard deviations of the widest."""
MAX_BLUR_SIGMA_PX = _RADIUS_PX / 3


@torch.no_grad()
def blur_and_noise(
    lr: torch.Tensor,
    blur_sigma_px: torch.Tensor,
    noise_sigma_levels: torch.Tensor,
    generator: torch.Generator,
) -> torch.Tensor:
    """Blur with an isotropic Gaussian, then add white Gaussian noise to each channel.

    Args:
        lr: [B, 3, h, w] float32 in [0, 1].
        blur_sigma_px: [B] on the same device, 0 (no blur) to `MAX_BLUR_SIGMA_PX`.
        noise_sigma_levels: [B] on the same device, in levels of 255; 0 for no noise.
        generator: On the same device.

    Returns:
        [B, 3, h, w] in [0, 1].
    """
    blurred = filter_pictures(lr, gaussian_kernels(blur_sigma_px))
    noise = torch.randn(lr.shape, generator=generator, device=lr.device)
    return blurred.addcmul_(noise, noise_sigma_levels.view(-1, 1, 1, 1) / 255).clamp_(0, 1)


def gaussian_kernels(sigma_px: torch.Tensor) -> torch.Tensor:
    """Isotropic Gaussians [B, 25, 25] adding up to 1, of standard deviations [B] in pixels."""
    offsets = torch.arange(-_RADIUS_PX, _RADIUS_PX + 1, device=sigma_px.device)
    # Below this the neighbours' weights are 0 in float32: the kernel changes nothing.
    sigma = sigma_px.float().clamp_min(0.05)[:, None]
    line = torch.softmax(-0.5 * (offsets / sigma) ** 2, dim=1)
    return line[:, :, None] * line[:, None, :]
