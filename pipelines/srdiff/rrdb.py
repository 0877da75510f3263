"""The low-resolution encoder: residual-in-residual dense blocks (ESRGAN; SRDiff section 3.3)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from pipelines.dense_blocks import RESIDUAL_WEIGHT, DenseBlock, leaky
from pipelines.srdiff.config import CONDITION_EVERY, Config


class RRDB(nn.Module):
    """Three dense blocks in series around a residual."""

    def __init__(self, features: int, growth: int) -> None:
        super().__init__()
        self.RDB1 = DenseBlock(features, growth)
        self.RDB2 = DenseBlock(features, growth)
        self.RDB3 = DenseBlock(features, growth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.RDB3(self.RDB2(self.RDB1(x))) * RESIDUAL_WEIGHT + x
        return result


class RRDBNet(nn.Module):
    """The encoder and its super-resolution tail, which only its own training needs."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        features = config.rrdb_features
        self.upsamplings = config.upsamplings
        self.conv_first = nn.Conv2d(3, features, 3, padding=1)
        self.RRDB_trunk = nn.Sequential(
            *(RRDB(features, config.rrdb_growth) for _ in range(config.rrdb_blocks))
        )
        self.trunk_conv = nn.Conv2d(features, features, 3, padding=1)
        for index in range(self.upsamplings):
            self.add_module(f"upconv{index + 1}", nn.Conv2d(features, features, 3, padding=1))
        self.HRconv = nn.Conv2d(features, features, 3, padding=1)
        self.conv_last = nn.Conv2d(features, 3, 3, padding=1)

    def encode(self, lr: torch.Tensor) -> list[torch.Tensor]:
        """[B, 3, h, w] in [-1, 1] -> the map after each block, then the trunk's: [B, f, h, w]."""
        first = self.conv_first((lr + 1) / 2)
        features = []
        x = first
        for block in self.RRDB_trunk:
            x = block(x)
            features.append(x)
        return [*features, first + self.trunk_conv(x)]

    def decode(self, trunk: torch.Tensor) -> torch.Tensor:
        """Last map of `encode` -> the encoder's own picture, [B, 3, s h, s w] in [-1, 1]."""
        x = trunk
        for index in range(self.upsamplings):
            conv = self.get_submodule(f"upconv{index + 1}")
            x = leaky(conv(F.interpolate(x, scale_factor=2, mode="nearest")))
        picture: torch.Tensor = self.conv_last(leaky(self.HRconv(x)))
        return 2 * picture.clamp(0, 1) - 1

    def forward(self, lr: torch.Tensor) -> torch.Tensor:
        return self.decode(self.encode(lr)[-1])


def condition(features: list[torch.Tensor]) -> torch.Tensor:
    """The maps of `RRDBNet.encode` that condition the UNet, concatenated."""
    return torch.cat(features[CONDITION_EVERY - 1 :: CONDITION_EVERY], dim=1)
