"""RRDBNet, the generator of ESRGAN and Real-ESRGAN, under its published tensor names.

Residual-in-residual dense blocks without batch normalisation (Wang et al., ECCVW 2018, section 3.1)
and, as Real-ESRGAN has it, two nearest upsamplings by 2 behind them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from pipelines.dense_blocks import LEAKY_SLOPE, RESIDUAL_WEIGHT, DenseBlock

SCALE = 4


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes of an RRDBNet.

    Attributes:
        features: Channels between the blocks.
        growth: Channels that each convolution of a dense block adds.
        blocks: Residual-in-residual dense blocks.
    """

    features: int
    growth: int
    blocks: int


X4PLUS = Shape(features=64, growth=32, blocks=23)


class RRDB(nn.Module):
    """Three dense blocks in series around a residual; [B, features, H, W] -> the same."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.rdb1 = DenseBlock(features, growth)
        self.rdb2 = DenseBlock(features, growth)
        self.rdb3 = DenseBlock(features, growth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.rdb3(self.rdb2(self.rdb1(x))) * RESIDUAL_WEIGHT + x
        return result


class RRDBNet(nn.Module):
    """[B, 3, h, w] RGB in [0, 1] -> [B, 3, 4h, 4w], about [0, 1]."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        features = shape.features
        self.conv_first = nn.Conv2d(3, features, 3, padding=1)
        self.body = nn.Sequential(*(RRDB(features, shape.growth) for _ in range(shape.blocks)))
        self.conv_body = nn.Conv2d(features, features, 3, padding=1)
        self.conv_up1 = nn.Conv2d(features, features, 3, padding=1)
        self.conv_up2 = nn.Conv2d(features, features, 3, padding=1)
        self.conv_hr = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        first = self.conv_first(lr)
        maps = first + self.conv_body(self.body(first))
        for conv in (self.conv_up1, self.conv_up2):
            maps = _leaky_(conv(F.interpolate(maps, scale_factor=2, mode="nearest")))
        picture: torch.Tensor = self.conv_last(_leaky_(self.conv_hr(maps)))
        return picture


def _leaky_(x: torch.Tensor) -> torch.Tensor:
    """In place: at full resolution a map more is what a picture needs most memory for."""
    return F.leaky_relu(x, LEAKY_SLOPE, inplace=True)


def receptive_radius(shape: Shape) -> int:
    """LR pixels around an output's own that it depends on: each 3x3 convolution adds one.

    Three of them are at twice or four times the resolution: up1, up2, hr and last add less than 2.
    """
    return 1 + 15 * shape.blocks + 1 + 2
