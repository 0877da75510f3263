"""Low-rank adapters beside the layers that they adapt (Hu et al., ICLR 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True, slots=True)
class LoraPair:
    """One layer's low-rank matrices.

    Attributes:
        down: LoRA-A: [rank, in] or [rank, in, kh, kw].
        up: LoRA-B: [out, rank] or [out, rank, 1, 1].
    """

    down: torch.Tensor
    up: torch.Tensor


class AdaptedLayer(nn.Module):
    """A linear or convolution layer with its adapter on a path of its own: base(x) + s B(A(x)).

    Args:
        base: The layer.
        pair: Its adapter.
        scale: s, which is alpha / rank.
    """

    def __init__(self, base: nn.Module, pair: LoraPair, scale: float) -> None:
        super().__init__()
        self.base = base
        # Of a convolution; kept here because a quantized one may take its place.
        self.stride, self.padding = getattr(base, "stride", 1), getattr(base, "padding", 0)
        self.scale = scale
        self.down = nn.Parameter(pair.down, requires_grad=False)
        self.up = nn.Parameter(pair.up, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.base(x)
        if self.down.dim() == 4:
            low = F.conv2d(x, self.down, None, self.stride, self.padding)
            return y + F.conv2d(self.mixed(low), self.up) * self.scale
        return y + F.linear(self.mixed(F.linear(x, self.down)), self.up) * self.scale

    def mixed(self, low: torch.Tensor) -> torch.Tensor:
        """What is done between A and B to [B, rank, H, W] or [B, ..., rank]."""
        return low


LayerT = TypeVar("LayerT", bound=AdaptedLayer)


def wrap_layers(
    network: nn.Module, pairs: Mapping[str, LoraPair], scale: float, kind: type[LayerT]
) -> dict[str, LayerT]:
    """Replace every adapted layer of `network` by one of `kind`; returns them by path."""
    wrapped = {}
    for path, pair in pairs.items():
        parent, _, name = path.rpartition(".")
        owner = network.get_submodule(parent)
        layer = kind(owner.get_submodule(name), pair, scale)
        setattr(owner, name, layer)
        wrapped[path] = layer
    return wrapped


def merged_weight(weight: torch.Tensor, pair: LoraPair, scale: float) -> torch.Tensor:
    """W + s B A in float64, in the shape of `weight`."""
    up, down = pair.up.double().flatten(1), pair.down.double().flatten(1)
    return weight.double() + scale * (up @ down).view(weight.shape)
