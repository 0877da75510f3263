"""The arithmetic around the networks that every S3Diff pipeline does alike."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pipelines.s3diff.options import SIZE_MULTIPLE, S3DiffOptions


def pixels_to_tensor(pixels: torch.Tensor) -> torch.Tensor:
    """uint8 [H, W, 3] -> float32 [1, 3, H, W] in [0, 1] on the same device."""
    return pixels.permute(2, 0, 1)[None].to(torch.float32).div(255)


def resize_input(image: torch.Tensor, scale: int, options: S3DiffOptions) -> torch.Tensor:
    """Interpolate to the output size without antialiasing."""
    size = (image.shape[-2] * scale, image.shape[-1] * scale)
    return F.interpolate(image, size=size, mode=options.resize, align_corners=options.align_corners)


def padded_size(side: int) -> int:
    """The next multiple of 64."""
    return -(-side // SIZE_MULTIPLE) * SIZE_MULTIPLE


def network_input(upscaled: torch.Tensor) -> torch.Tensor:
    """[0, 1] -> [-1, 1], padded at the bottom and the right to multiples of 64.

    By reflection; by replication where reflection would not fit, which crashed the published
    program.
    """
    height, width = upscaled.shape[-2:]
    bottom, right = padded_size(height) - height, padded_size(width) - width
    x = (upscaled * 2 - 1).clamp(-1, 1)
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(x, (0, right, 0, bottom), mode=mode)


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
