"""S3Diff's way from the LR image to the network's input."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pipelines.s3diff.options import SIZE_MULTIPLE, S3DiffOptions


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
