"""LoRA modulated by the degradation: y = base(x) + s B(M^T A(x)), s = alpha / rank.

M depends on the image and on the block of layers. The exact dense weight is W + s B M^T A; mind the
transpose (S3Diff section 3.2; published `model.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from pipelines.contract import PipelineError
from pipelines.s3diff.options import LORA_ALPHA

if TYPE_CHECKING:
    from pipelines.s3diff.weights import LoraPair

UNET_BLOCKS = 10
VAE_BLOCKS = 6


def unet_block(layer: str) -> int:
    """Block index of a UNet layer: four down, the middle, four up, everything else."""
    parts = layer.split(".")
    if parts[0] == "down_blocks":
        return int(parts[1])
    if parts[0] == "mid_block":
        return 4
    if parts[0] == "up_blocks":
        return 5 + int(parts[1])
    return 9


def vae_block(layer: str) -> int:
    """Block index of a VAE encoder layer: four down, the middle, everything else."""
    parts = layer.split(".")
    if parts[1] == "down_blocks":
        return int(parts[2])
    return 4 if parts[1] == "mid_block" else 5


class ModulatedLora(nn.Module):
    """A linear or convolution layer with its adapter applied at run time, on the low-rank path.

    `modulation` [B, r, r] must be set before the first forward; B is 1 or the batch of x.
    """

    def __init__(self, base: nn.Module, pair: LoraPair, scale: float) -> None:
        super().__init__()
        self.base = base
        self.scale = scale
        self.down = nn.Parameter(pair.down, requires_grad=False)
        self.up = nn.Parameter(pair.up, requires_grad=False)
        self.modulation: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        modulation = self.modulation
        if modulation is None:
            raise RuntimeError("modulation is not set")
        y: torch.Tensor = self.base(x)
        if isinstance(self.base, nn.Conv2d):
            low = F.conv2d(x, self.down, None, self.base.stride, self.base.padding)
            matrices = modulation.to(low.dtype).expand(low.shape[0], -1, -1)
            low = torch.einsum("bkhw,bkr->brhw", low, matrices)
            return y + F.conv2d(low, self.up) * self.scale
        low = F.linear(x, self.down)
        matrices = modulation.to(low.dtype).expand(low.shape[0], -1, -1)
        low = torch.einsum("b...k,bkr->b...r", low, matrices)
        return y + F.linear(low, self.up) * self.scale


def wrap_layers(
    network: nn.Module, pairs: Mapping[str, LoraPair], rank: int
) -> dict[str, ModulatedLora]:
    """Replace every adapted layer of `network` by a `ModulatedLora`; returns them by path."""
    wrapped = {}
    for path, pair in pairs.items():
        parent, _, name = path.rpartition(".")
        owner = network.get_submodule(parent)
        layer = ModulatedLora(owner.get_submodule(name), pair, LORA_ALPHA / rank)
        setattr(owner, name, layer)
        wrapped[path] = layer
    return wrapped


class LoraMerger:
    """Writes W + s B M^T A of every adapted layer into the network's own weights, once an image.

    Keeps masters of W and the adapters on the device in float32 (or wider, where `state` is), so
    nothing accumulates from image to image, whatever the dtype of the network.

    Args:
        network: Its layers `path + ".weight"` are overwritten; they must not share storage with
            `state`.
        state: Tensors of the unadapted network by name, float32 or float64.
        pairs: Layer path -> adapter matrices.
        rank: LoRA rank.
        block: Layer path -> block index.
    """

    def __init__(
        self,
        network: nn.Module,
        state: Mapping[str, torch.Tensor],
        pairs: Mapping[str, LoraPair],
        rank: int,
        block: Callable[[str], int],
    ) -> None:
        self.scale = LORA_ALPHA / rank
        self.dtype = next(iter(state.values())).dtype
        self.layers = []
        for path, pair in pairs.items():
            weight = network.get_parameter(f"{path}.weight")
            master, down, up = (
                part.to(weight.device, self.dtype).flatten(1)
                for part in (state[f"{path}.weight"], pair.down, pair.up)
            )
            self.layers.append((block(path), weight, master, down, up))

    def merge(self, modulation: torch.Tensor) -> None:
        """Merge for one image. `modulation` is [1, blocks, r, r].

        Raises:
            PipelineError: More than one image; each needs weights of its own.
        """
        if modulation.shape[0] != 1:
            raise PipelineError("merged adapters serve one image at a time")
        matrices = modulation[0].to(self.dtype)
        for block, weight, master, down, up in self.layers:
            mixed = up @ matrices[block].T
            merged = torch.addmm(master, mixed, down, alpha=self.scale)
            weight.copy_(merged.view(weight.shape))
