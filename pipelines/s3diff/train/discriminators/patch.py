"""A small discriminator without pretrained weights, for training where none can be had."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from pipelines.contract import PipelineError
from pipelines.s3diff.train.discriminators.interface import Discriminator

SMALLEST_SIDE = 32
_SLOPE = 0.2


class PatchDiscriminator(Discriminator):
    """Convolutions at full resolution that judge places of three sizes.

    A PatchGAN (Isola et al., CVPR 2017) with spectral norms and no other norm: 3x3 to `width`
    channels, then 4x4 with stride 2 to `width`, 2, 4 and 4 times as many; a 3x3 head on each of the
    last three, of stride 4, 8 and 16, whose logits see 20, 40 and 80 pixels. 447 thousand
    parameters at the default width of 32.

    Args:
        width: Channels of the first layer.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__(_Pyramid(width))

    def judge(self, image: torch.Tensor) -> list[torch.Tensor]:
        """Logits of [B, 3, H, W], sides of at least 32: [B, H/4, W/4] and two smaller maps."""
        if min(image.shape[-2:]) < SMALLEST_SIDE:
            height, width = image.shape[-2:]
            raise PipelineError(
                f"the discriminator got a picture of {width}x{height}; sides of at least "
                f"{SMALLEST_SIDE} are needed, take larger crops"
            )
        return self.run_trained(image)


class _Pyramid(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        channels = [width, width, 2 * width, 4 * width, 4 * width]
        self.first = spectral_norm(nn.Conv2d(3, width, 3, padding=1))
        self.down = nn.ModuleList(
            spectral_norm(nn.Conv2d(i, o, 4, stride=2, padding=1)) for i, o in pairwise(channels)
        )
        self.heads = nn.ModuleList(
            spectral_norm(nn.Conv2d(c, 1, 3, padding=1)) for c in channels[2:]
        )

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        x = F.leaky_relu(self.first(image), _SLOPE)
        features = []
        for down in self.down:
            x = F.leaky_relu(down(x), _SLOPE)
            features.append(x)
        return [
            head(level).squeeze(1) for head, level in zip(self.heads, features[1:], strict=True)
        ]
