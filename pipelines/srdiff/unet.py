"""The noise-prediction UNet, as published: no attention, no normalisation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from pipelines.srdiff.config import LEVELS, Config


class Mish(nn.Module):
    """x tanh(softplus(x)) in three operators, as published (Misra 2019)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.tanh(F.softplus(x))


class Block(nn.Module):
    """Reflection padding, 3x3 convolution, Mish."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(inputs, outputs, 3), Mish())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.block(x)
        return result


class ResnetBlock(nn.Module):
    """Two blocks around a residual; the time embedding is added between them."""

    def __init__(self, inputs: int, outputs: int, time: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(Mish(), nn.Linear(time, outputs))
        self.block1 = Block(inputs, outputs)
        self.block2 = Block(outputs, outputs)
        self.res_conv = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        h = self.block1(x)
        h = h + self.mlp(time)[:, :, None, None]
        result: torch.Tensor = self.block2(h) + self.res_conv(x)
        return result


class Downsample(nn.Module):
    """Reflection padding and a 3x3 convolution with stride 2: H -> ceil(H / 2)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(channels, channels, 3, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.conv(x)
        return result


class Upsample(nn.Module):
    """Transposed 4x4 convolution with stride 2: H -> 2 H."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.ConvTranspose2d(channels, channels, 4, 2, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.conv(x)
        return result


class TimeEmbedding(nn.Module):
    """Sinusoids of the timestep, [B] -> [B, width]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, t: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        half = self.width // 2
        steps = torch.arange(half, device=t.device, dtype=dtype)
        frequencies = torch.exp(steps * -(math.log(10000) / (half - 1)))
        angles = t.to(dtype)[:, None] * frequencies
        return torch.cat([angles.sin(), angles.cos()], dim=-1)


class UNet(nn.Module):
    """Noise in x_t from x_t, the timestep and the encoder's condition.

    Attributes:
        cond_proj: Condition on the LR grid -> full resolution.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        base, scale, widths = config.hidden_size, config.scale, config.widths
        self.cond_proj = nn.ConvTranspose2d(
            config.condition_channels, base, 2 * scale, scale, scale // 2
        )
        self.time_embedding = TimeEmbedding(base)
        self.mlp = nn.Sequential(nn.Linear(base, 4 * base), Mish(), nn.Linear(4 * base, base))
        self.downs = nn.ModuleList()
        self.ups = nn.ModuleList()
        for level, (inputs, width) in enumerate(zip((3, *widths), widths, strict=False)):
            last = level == LEVELS - 1
            blocks = [ResnetBlock(inputs, width, base), ResnetBlock(width, width, base)]
            shrink = nn.Identity() if last else Downsample(width)
            self.downs.append(nn.ModuleList([*blocks, shrink]))
        for level in range(LEVELS - 1, 0, -1):
            width = widths[level - 1]
            blocks = [ResnetBlock(2 * widths[level], width, base), ResnetBlock(width, width, base)]
            self.ups.append(nn.ModuleList([*blocks, Upsample(width)]))
        self.mid_block1 = ResnetBlock(widths[-1], widths[-1], base)
        self.mid_block2 = ResnetBlock(widths[-1], widths[-1], base)
        self.final_conv = nn.Sequential(Block(base, base), nn.Conv2d(base, 3, 1))

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Predict the noise.

        Args:
            x: [B, 3, H, W], H and W multiples of 8 and at least 16.
            t: [B], timesteps from 0.
            condition: [B, C, H / scale, W / scale], of `pipelines.srdiff.rrdb.condition`.

        Returns:
            [B, 3, H, W].
        """
        time = self.mlp(self.time_embedding(t, x.dtype))
        projected = self.cond_proj(condition)
        skips = []
        for level, modules in enumerate(self.downs):
            first, second, shrink = modules.children()
            x = second(first(x, time), time)
            if level == 0:
                x = x + projected
            skips.append(x)
            x = shrink(x)
        x = self.mid_block2(self.mid_block1(x, time), time)
        for modules in self.ups:
            first, second, grow = modules.children()
            x = torch.cat([x, skips.pop()], dim=1)
            x = grow(second(first(x, time), time))
        result: torch.Tensor = self.final_conv(x)
        return result
