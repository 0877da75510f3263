"""The arithmetic around the networks that every one-step pipeline does alike."""

from __future__ import annotations

import torch


def pixels_to_tensor(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [H, W, 3] -> float32 [1, 3, H, W] in [0, 1] on the same device."""
    return pixels.permute(2, 0, 1)[None].to(torch.float32).div(255)


def posterior_latent(
    moments: torch.Tensor, noise: torch.Tensor, scaling_factor: float, *, sample: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean of the VAE posterior, and its scaled sample (or scaled mean).

    Args:
        moments: [1, 2C, h, w], mean and log variance.
        noise: [1, C, h, w], float32 standard normal.
        scaling_factor: Of the VAE configuration.
        sample: False takes the mode.
    """
    mean, log_variance = moments.chunk(2, dim=1)
    if not sample:
        return mean, mean * scaling_factor
    std = torch.exp(0.5 * log_variance.clamp(-30.0, 20.0))
    return mean, (mean + std * noise) * scaling_factor


def to_unit_image(decoded: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Decoder output -> [3, height, width], float32 in [0, 1], padding cropped off."""
    return decoded[0, :, :height, :width].float().clamp(-1, 1) / 2 + 0.5
