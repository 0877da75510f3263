"""GroupNorm over the tiles of the VAE, as the published tiled VAE merges their statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from pipelines import kernels
from pipelines.kernels import static_int8
from pipelines.stable_diffusion.layers import CodeReader, group_norm
from pipelines.stable_diffusion.tiles import Tiles

Tensor = torch.Tensor


class MergedGroupNorm(nn.GroupNorm):
    """GroupNorm over tiles with statistics weighted by the tiles' areas.

    The merged variance leaves out the variance between tiles, as published; `merge` decides.
    """

    merge: Callable[[Sequence[Tensor], Sequence[int]], Tensor] = staticmethod(
        kernels.merge_statistics
    )

    def normaliser(
        self,
        tiles: Tiles,
        shift: Tensor | None = None,
        *,
        silu: bool,
        fused: bool,
        reader: nn.Module | None = None,
    ) -> Callable[[Tensor], Tensor]:
        """The function that normalises one of these tiles, its deferred bias `shift` included.

        It gives the codes of the normalised tile where `reader` reads codes.
        """
        if tiles.count == 1:
            return partial(group_norm, self, shift=shift, silu=silu, fused=fused, reader=reader)
        merged = self.merge(tiles.statistics, tiles.areas)
        if isinstance(reader, CodeReader):
            quantizer, levels = reader.quantizer, reader.levels
            return lambda tile: static_int8.group_normalize_quantize(
                tile, merged, self.weight, self.bias, self.eps, shift, silu, quantizer, levels
            )
        if fused:
            return lambda tile: kernels.group_normalize(
                tile, merged, self.weight, self.bias, self.eps, shift, silu
            )
        mean, variance = merged[0].repeat_interleave(self.num_channels // self.num_groups, 0).T
        factor = self.weight * torch.rsqrt(variance + self.eps)
        offset = self.bias - mean * factor
        return partial(_scale, factor=factor, offset=offset, silu=silu)


def _scale(tile: Tensor, factor: Tensor, offset: Tensor, *, silu: bool) -> Tensor:
    """The norm as one multiply-add in the tile's dtype, then SiLU."""
    factor, offset = (vector.to(tile.dtype)[:, None, None] for vector in (factor, offset))
    tile = torch.addcmul(offset, tile, factor)
    return F.silu(tile, inplace=True) if silu else tile


def plain_statistics(tile: Tensor, groups: int) -> Tensor:
    """Mean and biased variance of each group, [1, groups, 2], at least float32.

    By PyTorch's reductions, which accumulate fp16 in float32 without a copy of the tile.
    """
    channels, height, width = tile.shape[1:]
    grouped = tile.view(groups, channels // groups, height, width)  # no copy in NHWC either
    dims = (1, 2, 3)
    if tile.dtype != torch.float16:
        variance, mean = torch.var_mean(grouped, dim=dims, correction=0)
    else:
        mean = grouped.mean(dim=dims, dtype=torch.float32)
        norm = torch.linalg.vector_norm(grouped, dim=dims, dtype=torch.float32)
        variance = (norm.square() / grouped[0].numel() - mean.square()).clamp_min(0)
    return torch.stack([mean, variance], dim=-1)[None]
