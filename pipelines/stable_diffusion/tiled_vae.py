"""The published tiled VAE, step by step: lock-step tiles, merged GroupNorm, parking on the host.

The network is flattened to a list of steps. At every GroupNorm all tiles stop, their statistics are
merged, and all but the tile at hand wait on the CPU, as do all residuals (`vaehook.py` of the
published program, after pkuliyi2015's "tiled VAE"). The merged variance leaves out the variance of
the tiles' means, and overlaps count several times: that is the reference's function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pipelines.diffusion.tiling import VaeTile
from pipelines.work import note_transfer

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class Apply:
    """Run a function on the tile."""

    function: Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Store:
    """Keep the tile, or a projection of it, as the residual."""

    shortcut: nn.Module | None = None


@dataclass(frozen=True, slots=True)
class Add:
    """Add the last residual."""


@dataclass(frozen=True, slots=True)
class Norm:
    """GroupNorm over all tiles: the barrier."""

    layer: nn.GroupNorm


Step = Apply | Store | Add | Norm


def _wide(x: Tensor) -> torch.dtype:
    """At least float32."""
    return torch.promote_types(x.dtype, torch.float32)


def _silu(x: Tensor) -> Tensor:
    return F.silu(x, inplace=True)


def _resnet(block: Any) -> list[Step]:
    return [
        Store(block.conv_shortcut),
        Norm(block.norm1),
        Apply(_silu),
        Apply(block.conv1),
        Norm(block.norm2),
        Apply(_silu),
        Apply(block.conv2),
        Add(),
    ]


def _attention(layer: Any) -> list[Step]:
    def attend(x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        tokens = x.view(batch, channels, height * width).transpose(1, 2)
        query, key, value = layer.to_q(tokens), layer.to_k(tokens), layer.to_v(tokens)
        empty = query.new_empty(batch, query.shape[1], key.shape[1])
        scores = torch.baddbmm(empty, query, key.transpose(1, 2), beta=0, alpha=channels**-0.5)
        weights = scores.to(_wide(scores)).softmax(dim=-1).to(value.dtype)
        out = layer.to_out[0](torch.bmm(weights, value))
        return torch.as_tensor(out.transpose(1, 2).reshape(batch, channels, height, width))

    return [Store(), Norm(layer.group_norm), Apply(attend), Add()]


def _middle(block: Any) -> list[Step]:
    return [
        *_resnet(block.resnets[0]),
        *_attention(block.attentions[0]),
        *_resnet(block.resnets[1]),
    ]


def _tail(network: Any) -> list[Step]:
    return [Norm(network.conv_norm_out), Apply(_silu), Apply(network.conv_out)]


def encoder_steps(encoder: Any) -> list[Step]:
    """Flatten a diffusers VAE encoder."""
    steps: list[Step] = [Apply(encoder.conv_in)]
    for block in encoder.down_blocks:
        for resnet in block.resnets:
            steps += _resnet(resnet)
        steps += [Apply(layer) for layer in block.downsamplers or ()]
    return [*steps, *_middle(encoder.mid_block), *_tail(encoder)]


def decoder_steps(decoder: Any) -> list[Step]:
    """Flatten a diffusers VAE decoder."""
    steps: list[Step] = [Apply(decoder.conv_in), *_middle(decoder.mid_block)]
    for block in decoder.up_blocks:
        for resnet in block.resnets:
            steps += _resnet(resnet)
        steps += [Apply(layer) for layer in block.upsamplers or ()]
    return [*steps, *_tail(decoder)]


@dataclass(slots=True)
class _TileState:
    tile: VaeTile
    x: Tensor
    residuals: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Statistics:
    var: Tensor
    mean: Tensor
    positions: int


def _to_host(x: Tensor) -> Tensor:
    note_transfer(x)
    return x if x.is_meta else x.cpu()


def _to_device(x: Tensor, device: torch.device) -> Tensor:
    note_transfer(x)
    return x.to(device)


def _statistics(x: Tensor, groups: int) -> _Statistics:
    grouped = x.reshape(groups, -1)
    var, mean = torch.var_mean(grouped, dim=1, unbiased=False)
    if not x.is_meta and bool(var.isinf().any()):
        var, mean = torch.var_mean(grouped.float(), dim=1, unbiased=False)
    return _Statistics(var, mean, x.shape[-2] * x.shape[-1])


def _merge(statistics: Sequence[_Statistics]) -> tuple[Tensor, Tensor]:
    like = statistics[0].var
    positions = torch.tensor([s.positions for s in statistics], dtype=_wide(like))
    share = (positions / positions.sum()).to(like.device)[:, None]
    var = (torch.stack([s.var for s in statistics]) * share).sum(0)
    mean = (torch.stack([s.mean for s in statistics]) * share).sum(0)
    return var, mean


def _normalise(x: Tensor, layer: nn.GroupNorm, var: Tensor, mean: Tensor) -> Tensor:
    channels = x.shape[1]
    grouped = x.reshape(1, layer.num_groups, channels // layer.num_groups, *x.shape[-2:])
    out = F.batch_norm(grouped, mean.to(x), var.to(x), eps=layer.eps).view(x.shape)
    out *= layer.weight.view(1, -1, 1, 1)
    out += layer.bias.view(1, -1, 1, 1)
    return out


def _segments(steps: Sequence[Step]) -> list[tuple[list[Step], Norm | None]]:
    """Split at the barriers: what runs before each GroupNorm, and that GroupNorm."""
    found: list[tuple[list[Step], Norm | None]] = []
    run: list[Step] = []
    for step in steps:
        if isinstance(step, Norm):
            found.append((run, step))
            run = []
        else:
            run.append(step)
    return [*found, (run, None)]


def _advance(state: _TileState, x: Tensor, run: Sequence[Step]) -> Tensor:
    for step in run:
        match step:
            case Apply(function):
                x = function(x)
            case Store(shortcut):
                state.residuals.append(_to_host(x if shortcut is None else shortcut(x)))
            case Add():
                x = x + _to_device(state.residuals.pop(), x.device)
    return x


def run_tiled(
    steps: Sequence[Step], x: Tensor, tiles: Sequence[VaeTile], out_channels: int
) -> Tensor:
    """Run the flattened network over tiles in lock-step.

    Args:
        steps: From `encoder_steps` or `decoder_steps`.
        x: [1, C, H, W] on the device.
        tiles: Their geometry.
        out_channels: Channels of the result.

    Returns:
        [1, out_channels, H', W'] on the device, float32 also where `x` is fp16.
    """
    device = x.device
    states = [_TileState(t, _to_host(_crop(x, t))) for t in tiles]
    height = max(t.target.bottom for t in tiles)
    width = max(t.target.right for t in tiles)
    result = torch.zeros(1, out_channels, height, width, device=device, dtype=_wide(x))
    norm: tuple[nn.GroupNorm, Tensor, Tensor] | None = None
    for index, (run, barrier) in enumerate(_segments(steps)):
        order = states if index % 2 == 0 else states[::-1]
        statistics = []
        for state in order:
            stays = state is order[0] and index > 0
            current = state.x if stays else _to_device(state.x, device)
            if norm is not None:
                current = _normalise(current, *norm)
            current = _advance(state, current, run)
            if barrier is None:
                _paste(result, current, state.tile)
                continue
            statistics.append(_statistics(current, barrier.layer.num_groups))
            state.x = current if state is order[-1] else _to_host(current)
            del current
        if barrier is not None:
            norm = (barrier.layer, *_merge(statistics))
    return result


def _crop(x: Tensor, tile: VaeTile) -> Tensor:
    box = tile.source
    return x[:, :, box.top : box.bottom, box.left : box.right]


def _paste(result: Tensor, x: Tensor, tile: VaeTile) -> None:
    target, crop = tile.target, tile.crop
    result[:, :, target.top : target.bottom, target.left : target.right] = x[
        :, :, crop.top : crop.bottom, crop.left : crop.right
    ]
