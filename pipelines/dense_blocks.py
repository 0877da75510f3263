"""The dense block of ESRGAN's networks (Wang et al., ECCVW 2018, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

LEAKY_SLOPE = 0.2
RESIDUAL_WEIGHT = 0.2


def leaky(x: torch.Tensor) -> torch.Tensor:
    """The activation behind every convolution but a block's last."""
    return F.leaky_relu(x, LEAKY_SLOPE)


class DenseBlock(nn.Module):
    """Five convolutions, each of all maps before it; [B, features, H, W] -> the same."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(features, growth, 3, padding=1)
        self.conv2 = nn.Conv2d(features + growth, growth, 3, padding=1)
        self.conv3 = nn.Conv2d(features + 2 * growth, growth, 3, padding=1)
        self.conv4 = nn.Conv2d(features + 3 * growth, growth, 3, padding=1)
        self.conv5 = nn.Conv2d(features + 4 * growth, features, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = x
        for conv in (self.conv1, self.conv2, self.conv3, self.conv4):
            maps = torch.cat([maps, leaky(conv(maps))], dim=1)
        result: torch.Tensor = self.conv5(maps) * RESIDUAL_WEIGHT + x
        return result
