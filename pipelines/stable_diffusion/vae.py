"""The Stable Diffusion VAE as flat modules that run all tiles in lock-step on the device.

At every GroupNorm the statistics of all tiles are merged as the published tiled VAE merges them, on
the device and without a host synchronisation. A function that takes `Tiles` uses them up as it
goes, so that at most one tile's temporaries live beside the tiles. Parameter names are those of
diffusers' AutoencoderKL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pipelines import kernels
from pipelines.diffusion.attention import chunked_attention
from pipelines.diffusion.tiling import Box, VaeTile
from pipelines.stable_diffusion.layers import (
    CodeReader,
    Fusion,
    Upsample,
    add_residual,
    convolve,
    deferred_bias,
)
from pipelines.stable_diffusion.merged_norm import MergedGroupNorm, plain_statistics
from pipelines.stable_diffusion.tiles import Tiles

Tensor = torch.Tensor


def _each(layer: Callable[[Tensor], Tensor], tiles: Tiles) -> Tiles:
    """Run a layer on every tile, freeing each as soon as it is read."""
    done = tiles.none()
    for tile in tiles.drain():
        done.add(layer(tile))
    return done


class ResnetBlock(nn.Module):
    """GroupNorm, SiLU, convolution, twice, with a residual."""

    def __init__(self, inputs: int, outputs: int, groups: int, fusion: Fusion) -> None:
        super().__init__()
        self.fusion = fusion
        self.norm1 = MergedGroupNorm(groups, inputs, eps=1e-6)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.norm2 = MergedGroupNorm(groups, outputs, eps=1e-6)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tiles) -> Tiles:
        fused, pointwise = self.fusion.norm, self.fusion.pointwise
        normalise = self.norm1.normaliser(x, silu=True, fused=fused, reader=self.conv1)
        bias = deferred_bias(self.conv1, fused=fused)
        h, residuals = x.none(), x.none()
        for tile in x.drain():
            h.add(convolve(self.conv1, normalise(tile), bias), bias)
            # Before the second half: where it narrows the map, the wide one need not wait.
            residuals.hold(tile if self.conv_shortcut is None else self.conv_shortcut(tile))
        normalise = self.norm2.normaliser(h, bias, silu=True, fused=fused, reader=self.conv2)
        bias = deferred_bias(self.conv2, fused=pointwise)
        done = x.none()
        for tile, residual in zip(h.drain(), residuals.drain(), strict=True):
            if isinstance(self.conv2, CodeReader):
                done.add(self.conv2(normalise(tile), residual))
                continue
            out = convolve(self.conv2, normalise(tile), bias)
            done.add(add_residual(out, residual, bias, fused=pointwise))
        return done


class TileAttention(nn.Module):
    """Single-head self-attention; every tile sees only itself, as published."""

    def __init__(self, channels: int, groups: int, fusion: Fusion, *, chunked: bool) -> None:
        super().__init__()
        self.fused_norm = fusion.norm
        self.chunked = chunked
        self.group_norm = MergedGroupNorm(groups, channels, eps=1e-6)
        self.to_q = nn.Linear(channels, channels)
        self.to_k = nn.Linear(channels, channels)
        self.to_v = nn.Linear(channels, channels)
        self.to_out = nn.ModuleList([nn.Linear(channels, channels)])

    def forward(self, x: Tiles) -> Tiles:
        normalise = self.group_norm.normaliser(x, silu=False, fused=self.fused_norm)
        return _each(lambda tile: self._attend(normalise(tile)) + tile, x)

    def _attend(self, tile: Tensor) -> Tensor:
        tokens = tile.flatten(2).transpose(1, 2)
        query, key, value = (layer(tokens) for layer in (self.to_q, self.to_k, self.to_v))
        if self.chunked:
            out = chunked_attention(query, key, value)
        else:
            heads = (x[:, None] for x in (query, key, value))
            out = F.scaled_dot_product_attention(*heads)[:, 0]
        return torch.as_tensor(self.to_out[0](out).transpose(1, 2).reshape(tile.shape))


class Downsample(nn.Module):
    """Stride-2 convolution after padding the right and the bottom by one.

    One that reads codes pads by itself.
    """

    padding = (0, 1)

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.conv, CodeReader):
            return torch.as_tensor(self.conv(x))
        return torch.as_tensor(self.conv(F.pad(x, 2 * self.padding)))


class Stage(nn.Module):
    """Resnets of one resolution and the resampler behind them."""

    def __init__(self, inputs: int, outputs: int, depth: int, groups: int, fusion: Fusion) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(
            ResnetBlock(inputs if i == 0 else outputs, outputs, groups, fusion)
            for i in range(depth)
        )

    def forward(self, x: Tiles) -> Tiles:
        for resnet in self.resnets:
            x = resnet(x)
        for layer in getattr(self, "downsamplers", ()):
            x = _each(layer, x)
        for layer in getattr(self, "upsamplers", ()):
            x = _each(partial(_double, layer), x)
        return x


def _double(layer: Upsample, x: Tensor) -> Tensor:
    height, width = x.shape[-2:]
    return torch.as_tensor(layer(x, (2 * height, 2 * width)))


class Middle(nn.Module):
    """Resnet, attention, resnet."""

    def __init__(self, channels: int, groups: int, fusion: Fusion, *, chunked: bool) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([TileAttention(channels, groups, fusion, chunked=chunked)])
        self.resnets = nn.ModuleList(
            ResnetBlock(channels, channels, groups, fusion) for _ in range(2)
        )

    def forward(self, x: Tiles) -> Tiles:
        for layer in (self.resnets[0], self.attentions[0], self.resnets[1]):
            x = layer(x)
        return x


class Encoder(nn.Module):
    """Image tiles in [-1, 1] -> moments before the quantisation convolution."""

    def __init__(self, config: Mapping[str, Any], fusion: Fusion, *, chunked: bool) -> None:
        super().__init__()
        self.fused_norm = fusion.norm
        widths, groups = config["block_out_channels"], config["norm_num_groups"]
        self.conv_in = nn.Conv2d(config["in_channels"], widths[0], 3, padding=1)
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            inputs = widths[max(0, level - 1)]
            stage = Stage(inputs, width, config["layers_per_block"], groups, fusion)
            if level < len(widths) - 1:
                stage.downsamplers = nn.ModuleList([Downsample(width)])
            self.down_blocks.append(stage)
        self.mid_block = Middle(widths[-1], groups, fusion, chunked=chunked)
        self.conv_norm_out = MergedGroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], 2 * config["latent_channels"], 3, padding=1)

    def forward(self, x: Tiles) -> Tiles:
        x = _each(self.conv_in, x)
        for stage in self.down_blocks:
            x = stage(x)
        return _finish(self, self.mid_block(x))


class Decoder(nn.Module):
    """Latent tiles after the post-quantisation convolution -> image tiles."""

    def __init__(self, config: Mapping[str, Any], fusion: Fusion, *, chunked: bool) -> None:
        super().__init__()
        self.fused_norm = fusion.norm
        widths, groups = config["block_out_channels"][::-1], config["norm_num_groups"]
        self.conv_in = nn.Conv2d(config["latent_channels"], widths[0], 3, padding=1)
        self.mid_block = Middle(widths[0], groups, fusion, chunked=chunked)
        self.up_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            inputs = widths[max(0, level - 1)]
            stage = Stage(inputs, width, config["layers_per_block"] + 1, groups, fusion)
            if level < len(widths) - 1:
                stage.upsamplers = nn.ModuleList([Upsample(width)])
            self.up_blocks.append(stage)
        self.conv_norm_out = MergedGroupNorm(groups, widths[-1], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[-1], config["out_channels"], 3, padding=1)

    def upsamples(self) -> Iterator[Upsample]:
        """Layers that `fold_upsample` folds."""
        for module in self.modules():
            if isinstance(module, Upsample):
                yield module

    def forward(self, x: Tiles) -> Tiles:
        x = self.mid_block(_each(self.conv_in, x))
        for stage in self.up_blocks:
            x = stage(x)
        return _finish(self, x)


def _finish(network: Encoder | Decoder, x: Tiles) -> Tiles:
    """The last norm, SiLU and convolution, the latter in its own precision."""
    conv = network.conv_out
    dtype = next(conv.parameters()).dtype
    normalise = network.conv_norm_out.normaliser(x, silu=True, fused=network.fused_norm)
    done = x.none()
    for tile in x.drain():
        done.hold(conv(normalise(tile).to(dtype)))
    return done


class Vae(nn.Module):
    """Encoder, decoder and the 1x1 convolutions between them and the latent.

    Args:
        config: The snapshot's `vae/config.json`.
        fusion: Passes that are kernels of their own.
        chunked: Attention in chunks of queries.
    """

    def __init__(
        self, config: Mapping[str, Any], fusion: Fusion | None = None, *, chunked: bool = False
    ) -> None:
        super().__init__()
        latent, fusion = config["latent_channels"], fusion or Fusion()
        self.encoder = Encoder(config, fusion, chunked=chunked)
        self.decoder = Decoder(config, fusion, chunked=chunked)
        self.quant_conv = nn.Conv2d(2 * latent, 2 * latent, 1)
        self.post_quant_conv = nn.Conv2d(latent, latent, 1)


def run_lockstep(
    network: Encoder | Decoder, x: Tensor, tiles: Sequence[VaeTile], *, park: bool = False
) -> Tensor:
    """Cut `x` [1, C, H, W] into tiles, run them in lock-step, stitch the result.

    Everything stays on the device of `x`, unless `park` keeps the tiles that wait in host memory.
    """
    groups = network.conv_norm_out.num_groups

    def measure(tile: Tensor, shift: Tensor | None) -> Tensor:
        if network.fused_norm:
            return kernels.group_statistics(tile, groups, shift)
        return plain_statistics(tile, groups)

    waiting = Tiles(len(tiles), measure, park=park)
    for tile in tiles:
        waiting.hold(_window(x, tile.source))
    results: Iterator[Tensor] = network(waiting).drain()
    if len(tiles) == 1:
        return next(results)
    return _stitch(tiles, results)


def run_whole(network: Encoder | Decoder, x: Tensor) -> Tensor:
    """Run `x` [B, C, H, W] as one tile."""
    box = Box(0, x.shape[-2], 0, x.shape[-1])
    return run_lockstep(network, x, [VaeTile(box, box, box)])


def _stitch(tiles: Sequence[VaeTile], results: Iterator[Tensor]) -> Tensor:
    height = max(tile.target.bottom for tile in tiles)
    width = max(tile.target.right for tile in tiles)
    out: Tensor | None = None
    for tile, result in zip(tiles, results, strict=True):
        if out is None:
            out = result.new_empty((1, result.shape[1], height, width))
        _window(out, tile.target).copy_(_window(result, tile.crop))
    return torch.as_tensor(out)


def _window(x: Tensor, box: Box) -> Tensor:
    window: Tensor = x[:, :, box.top : box.bottom, box.left : box.right]
    return window
