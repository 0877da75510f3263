"""The Stable Diffusion VAE as flat modules that run all tiles in lock-step on the device.

A `Tiles` value is one tensor [1, C, h, w] a tile; an untiled image is one tile. At every GroupNorm
the statistics of all tiles are merged as the published tiled VAE merges them, on the device and
without a host synchronisation. A function that takes `Tiles` empties the list as it goes, so that
at most one tile's temporaries live beside the tiles; who needs them later passes a copy of the
list. Parameter names are those of diffusers' AutoencoderKL.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pipelines.diffusion.tiling import Box, VaeTile

Tensor = torch.Tensor
Tiles = list[Tensor]


def _statistics(tile: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Biased variance and mean of each group, [groups], at least float32."""
    channels, height, width = tile.shape[1:]
    grouped = tile.view(groups, channels // groups, height, width)  # no copy in NHWC either
    dims = (1, 2, 3)
    if tile.dtype != torch.float16:
        var, mean = torch.var_mean(grouped, dim=dims, unbiased=False)
        return var, mean
    mean = grouped.mean(dim=dims, dtype=torch.float32)
    norm = torch.linalg.vector_norm(grouped, dim=dims, dtype=torch.float32)
    count = grouped[0].numel()
    return (norm.square() / count - mean.square()).clamp_min(0), mean


class MergedGroupNorm(nn.GroupNorm):
    """GroupNorm over tiles with statistics weighted by the tiles' areas.

    The merged variance leaves out the variance between tiles, as published.
    """

    def normaliser(self, tiles: Sequence[Tensor]) -> Callable[[Tensor], Tensor]:
        """The function that normalises one of these tiles."""
        if len(tiles) == 1:
            return self
        factor, offset = (v.to(tiles[0].dtype)[:, None, None] for v in self._affine(tiles))
        return lambda tile: torch.addcmul(offset, tile, factor)

    def _affine(self, tiles: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Per-channel factor and offset that normalise and scale in one pass."""
        total = sum(tile.shape[-2] * tile.shape[-1] for tile in tiles)
        shares = [tile.shape[-2] * tile.shape[-1] / total for tile in tiles]
        statistics = [_statistics(tile, self.num_groups) for tile in tiles]
        var = sum(share * var for share, (var, _) in zip(shares, statistics, strict=True))
        mean = sum(share * mean for share, (_, mean) in zip(shares, statistics, strict=True))
        repeat = self.num_channels // self.num_groups
        inverse = torch.rsqrt(torch.as_tensor(var) + self.eps).repeat_interleave(repeat)
        factor = self.weight.to(inverse.dtype) * inverse
        mean = torch.as_tensor(mean).repeat_interleave(repeat)
        return factor, self.bias.to(inverse.dtype) - mean * factor


def _each(layer: Callable[[Tensor], Tensor], tiles: Tiles) -> Tiles:
    """Run a layer on every tile, freeing each as soon as it is read."""
    done: Tiles = []
    while tiles:
        done.append(layer(tiles.pop(0)))
    return done


def _norm_silu_conv(norm: MergedGroupNorm, conv: nn.Module, tiles: Tiles) -> Tiles:
    normalise = norm.normaliser(tiles)
    dtype = next(conv.parameters()).dtype
    return _each(lambda x: conv(F.silu(normalise(x), inplace=True).to(dtype)), tiles)


class ResnetBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, with a residual."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = MergedGroupNorm(groups, inputs, eps=1e-6)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = MergedGroupNorm(groups, outputs, eps=1e-6)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tiles) -> Tiles:
        h = _norm_silu_conv(self.norm1, self.conv1, list(x))
        h = _norm_silu_conv(self.norm2, self.conv2, h)
        residual = x if self.conv_shortcut is None else _each(self.conv_shortcut, x)
        return [a.add_(b) for a, b in zip(h, residual, strict=True)]


class TileAttention(nn.Module):
    """Single-head self-attention; every tile sees only itself, as published."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.group_norm = MergedGroupNorm(groups, channels, eps=1e-6)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tiles) -> Tiles:
        normalise = self.group_norm.normaliser(x)
        return _each(lambda tile: self._attend(normalise(tile)) + tile, x)

    def _attend(self, tile: Tensor) -> Tensor:
        tokens = tile.flatten(2).transpose(1, 2)
        query, key, value = (layer(tokens)[:, None] for layer in (self.to_q, self.to_k, self.to_v))
        out = F.scaled_dot_product_attention(query, key, value)[:, 0]
        return torch.as_tensor(self.to_out[0](out).transpose(1, 2).reshape(tile.shape))


class Downsample(nn.Module):
    """Stride-2 convolution after padding the right and the bottom by one."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.conv(F.pad(x, (0, 1, 0, 1))))


class Upsample(nn.Module):
    """Nearest upsampling by 2, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest")))


class Stage(nn.Module):
    """Resnets of one resolution and the resampler behind them."""

    def __init__(self, inputs: int, outputs: int, depth: int, groups: int) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(inputs if i == 0 else outputs, outputs, groups) for i in range(depth)
        )

    def forward(self, x: Tiles) -> Tiles:
        for resnet in self.resnets:
            x = resnet(x)
        for name in ("downsamplers", "upsamplers"):
            for layer in getattr(self, name, ()):
                x = _each(layer, x)
        return x


class Middle(nn.Module):
    """Resnet, attention, resnet."""

    def __init__(self, channels: int, groups: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([TileAttention(channels, groups)])
        self.resnets = nn.ModuleList(ResnetBlock(channels, channels, groups) for _ in range(2))

    def forward(self, x: Tiles) -> Tiles:
        for layer in (self.resnets[0], self.attentions[0], self.resnets[1]):
            x = layer(x)
        return x


class Encoder(nn.Module):
    """Image tiles in [-1, 1] -> moments before the quantisation convolution."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        widths, groups = config["block_out_channels"], config["norm_num_groups"]
        self.conv_in = nn.Conv2d(config["in_channels"], widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            inputs = widths[max(0, level - 1)]
            stage = Stage(inputs, width, config["layers_per_block"], groups)
            if level < len(widths) - 1:
                stage.downsamplers = nn.ModuleList([Downsample(width)])
            self.down_blocks.append(stage)
        self.mid_block = Middle(widths[-1], groups)
        self.conv_norm_out = MergedGroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config["latent_channels"], 3, padding=1)

    def forward(self, x: Tiles) -> Tiles:
        x = _each(self.conv_in, x)
        for stage in self.down_blocks:
            x = stage(x)
        return _norm_silu_conv(self.conv_norm_out, self.conv_out, self.mid_block(x))


class Decoder(nn.Module):
    """Latent tiles after the post-quantisation convolution -> image tiles."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        widths, groups = config["block_out_channels"][::-1], config["norm_num_groups"]
        self.conv_in = nn.Conv2d(config["latent_channels"], widths[0], 3, padding=1)
        self.mid_block = Middle(widths[0], groups)
        self.up_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            inputs = widths[max(0, level - 1)]
            stage = Stage(inputs, width, config["layers_per_block"] + 1, groups)
            if level < len(widths) - 1:
                stage.upsamplers = nn.ModuleList([Upsample(width)])
            self.up_blocks.append(stage)
        self.conv_norm_out = MergedGroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], config["out_channels"], 3, padding=1)

    def forward(self, x: Tiles) -> Tiles:
        x = self.mid_block(_each(self.conv_in, x))
        for stage in self.up_blocks:
            x = stage(x)
        return _norm_silu_conv(self.conv_norm_out, self.conv_out, x)


class Vae(nn.Module):
    """Encoder, decoder and the 1x1 convolutions between them and the latent."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        latent = config["latent_channels"]
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)


def run_lockstep(network: Encoder | Decoder, x: Tensor, tiles: Sequence[VaeTile]) -> Tensor:
    """Cut `x` [1, C, H, W] into tiles, run them in lock-step, stitch the result.

    Everything stays on the device of `x`.
    """
    results = network([_window(x, tile.source) for tile in tiles])
    if len(tiles) == 1:
        return torch.as_tensor(results[0])
    height = max(t.target.bottom for t in tiles)
    width = max(t.target.right for t in tiles)
    out: Tensor = results[0].new_empty(1, results[0].shape[1], height, width)
    for tile, result in zip(tiles, results, strict=True):
        _window(out, tile.target).copy_(_window(result, tile.crop))
    return out


def _window(x: Tensor, box: Box) -> Tensor:
    window: Tensor = x[:, :, box.top : box.bottom, box.left : box.right]
    return window
