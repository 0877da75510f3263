"""The Stable Diffusion VAE as flat modules that run all tiles in lock-step on the device.

A `Batches` value is one tensor a distinct tile shape, [tiles, C, h, w]. At every GroupNorm the
statistics of all tiles are merged as the published tiled VAE merges them, on the device, without a
host synchronisation. An untiled image is one batch of one tile. Parameter names are those of
diffusers' AutoencoderKL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pipelines.diffusion.tiling import VaeTile

Tensor = torch.Tensor
Batches = list[Tensor]


def _tile_statistics(batch: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Biased variance and mean of each group of each tile, [tiles, groups], at least float32."""
    grouped = batch.reshape(batch.shape[0], groups, -1)
    if batch.dtype != torch.float16:
        var, mean = torch.var_mean(grouped, dim=2, unbiased=False)
        return var, mean
    mean = grouped.mean(dim=2, dtype=torch.float32)
    norm = torch.linalg.vector_norm(grouped, dim=2, dtype=torch.float32)
    return (norm.square() / grouped.shape[2] - mean.square()).clamp_min(0), mean


class MergedGroupNorm(nn.GroupNorm):
    """GroupNorm over tiles, statistics weighted by the tiles' areas, then SiLU where asked.

    The merged variance leaves out the variance between tiles, as published.
    """

    def merged(self, batches: Batches, *, silu: bool) -> Batches:
        """Normalise every tile with the merged statistics."""
        if len(batches) == 1 and batches[0].shape[0] == 1:
            normed = [self(batches[0])]
        else:
            affine = self._affine(batches)
            normed = [self._rescale(batch, *affine) for batch in batches]
        return [F.silu(batch, inplace=True) for batch in normed] if silu else normed

    def _affine(self, batches: Batches) -> tuple[Tensor, Tensor]:
        """Per-channel factor and offset that normalise and scale in one pass."""
        total = sum(b.shape[0] * b.shape[-2] * b.shape[-1] for b in batches)
        var = mean = torch.zeros((), device=batches[0].device)
        for batch in batches:
            share = batch.shape[-2] * batch.shape[-1] / total
            tile_var, tile_mean = _tile_statistics(batch, self.num_groups)
            var = var + tile_var.sum(0) * share
            mean = mean + tile_mean.sum(0) * share
        repeat = self.num_channels // self.num_groups
        inverse = torch.rsqrt(var + self.eps).repeat_interleave(repeat)
        factor = self.weight.to(inverse.dtype) * inverse
        return factor, self.bias.to(inverse.dtype) - mean.repeat_interleave(repeat) * factor

    @staticmethod
    def _rescale(batch: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
        shape = (1, -1, 1, 1)
        return torch.addcmul(
            offset.to(batch.dtype).view(shape), batch, factor.to(batch.dtype).view(shape)
        )


def _each(layer: nn.Module, batches: Batches) -> Batches:
    return [layer(batch) for batch in batches]


class ResnetBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, with a residual."""

    def __init__(self, inputs: int, outputs: int, groups: int) -> None:
        super().__init__()
        self.norm1 = MergedGroupNorm(groups, inputs, eps=1e-6)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = MergedGroupNorm(groups, outputs, eps=1e-6)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Batches) -> Batches:
        h = _each(self.conv1, self.norm1.merged(x, silu=True))
        h = _each(self.conv2, self.norm2.merged(h, silu=True))
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

    def forward(self, x: Batches) -> Batches:
        normed = self.group_norm.merged(x, silu=False)
        return [self._attend(n) + batch for n, batch in zip(normed, x, strict=True)]

    def _attend(self, batch: Tensor) -> Tensor:
        tokens = batch.flatten(2).transpose(1, 2)
        query, key, value = (layer(tokens)[:, None] for layer in (self.to_q, self.to_k, self.to_v))
        out = F.scaled_dot_product_attention(query, key, value)[:, 0]
        return torch.as_tensor(self.to_out[0](out).transpose(1, 2).reshape(batch.shape))


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

    def forward(self, x: Batches) -> Batches:
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

    def forward(self, x: Batches) -> Batches:
        x = self.resnets[0](x)
        x = self.attentions[0](x)
        return list(self.resnets[1](x))


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

    def forward(self, x: Batches) -> Batches:
        x = _each(self.conv_in, x)
        for stage in self.down_blocks:
            x = stage(x)
        x = self.conv_norm_out.merged(self.mid_block(x), silu=True)
        dtype = next(self.conv_out.parameters()).dtype
        return [self.conv_out(batch.to(dtype)) for batch in x]


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

    def forward(self, x: Batches) -> Batches:
        x = self.mid_block(_each(self.conv_in, x))
        for stage in self.up_blocks:
            x = stage(x)
        return _each(self.conv_out, self.conv_norm_out.merged(x, silu=True))


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

    Tiles of equal shape and equal crop share a batch. Everything stays on the device of `x`.
    """
    groups: dict[tuple[int, int], list[VaeTile]] = {}
    for tile in tiles:
        groups.setdefault((tile.source.height, tile.source.width), []).append(tile)
    batches = [
        torch.cat([_window(x, tile.source) for tile in members]) for members in groups.values()
    ]
    results = network(batches)
    if len(tiles) == 1:
        return torch.as_tensor(results[0])
    height = max(t.target.bottom for t in tiles)
    width = max(t.target.right for t in tiles)
    out = results[0].new_empty(1, results[0].shape[1], height, width)
    for members, result in zip(groups.values(), results, strict=True):
        for index, tile in enumerate(members):
            _window(out, tile.target).copy_(_window(result[index : index + 1], tile.crop))
    return out


def _window(x: Tensor, box: Any) -> Tensor:
    return x[:, :, box.top : box.bottom, box.left : box.right]
