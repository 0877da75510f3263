"""LoRA modulated by the degradation: y = base(x) + s B(M^T A(x)), s = alpha / rank.

M depends on the image and on the block of layers. The exact dense weight is W + s B M^T A; mind the
transpose (S3Diff section 3.2; published `model.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from pipelines import kernels
from pipelines.contract import PipelineError
from pipelines.diffusion.lora import AdaptedLayer, LoraPair
from pipelines.stable_diffusion.options import LORA_ALPHA

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


class ModulatedLora(AdaptedLayer):
    """A layer with its adapter applied at run time, on the low-rank path.

    `modulation` [B, r, r] must be set before the first forward; B is 1 or the batch of x.
    """

    def __init__(self, base: nn.Module, pair: LoraPair, scale: float) -> None:
        super().__init__(base, pair, scale)
        self.modulation: torch.Tensor | None = None

    def mixed(self, low: torch.Tensor) -> torch.Tensor:
        if self.modulation is None:
            raise RuntimeError("modulation is not set")
        matrices = self.modulation.to(low.dtype).expand(low.shape[0], -1, -1)
        if self.down.dim() == 4:
            return torch.einsum("bkhw,bkr->brhw", low, matrices)
        return torch.einsum("b...k,bkr->b...r", low, matrices)


@dataclass(frozen=True, slots=True)
class _Group:
    """Adapted layers of one shape, dtype and memory order, stacked.

    Attributes:
        blocks: Block index of each layer, [n].
        master: Unadapted weights, [n, O, K].
        up: [n, O, r].
        down: [n, r, K].
        out: What the layers' own weights are views of, [n, O, K].
    """

    blocks: torch.Tensor
    master: torch.Tensor
    up: torch.Tensor
    down: torch.Tensor
    out: torch.Tensor


class LoraMerger:
    """Writes W + s B M^T A of every adapted layer into the network's own weights, once an image.

    Layers of one shape are merged by one kernel: their weights become views of one stacked tensor,
    in the order of `pairs`. Keeps masters of W and the adapters on the device in float32 (or wider,
    where `state` is), so nothing accumulates from image to image, whatever the network's dtype.

    Args:
        network: The weights of its layers are replaced; their memory format is kept.
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
        alike: dict[tuple[object, ...], list[str]] = {}
        for path in pairs:
            weight = network.get_parameter(f"{path}.weight")
            alike.setdefault((weight.shape, weight.dtype, _is_nhwc(weight)), []).append(path)
        self._place: dict[str, tuple[int, int]] = {}
        self._groups: list[_Group] = []
        for paths in alike.values():
            self._place.update((path, (len(self._groups), i)) for i, path in enumerate(paths))
            self._groups.append(self._stack(network, state, pairs, paths, block))

    def _stack(
        self,
        network: nn.Module,
        state: Mapping[str, torch.Tensor],
        pairs: Mapping[str, LoraPair],
        paths: Sequence[str],
        block: Callable[[str], int],
    ) -> _Group:
        first = network.get_parameter(f"{paths[0]}.weight")
        device, nhwc = first.device, _is_nhwc(first)

        def rows(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
            flat = (_flat(tensor.to(device, self.dtype), nhwc=nhwc) for tensor in tensors)
            return torch.stack(list(flat))

        master = rows(state[f"{path}.weight"] for path in paths)
        out = torch.empty_like(master, dtype=first.dtype)
        for path, part in zip(paths, out, strict=True):
            layer = network.get_submodule(path)
            layer.weight = nn.Parameter(_shaped(part, first.shape, nhwc=nhwc), requires_grad=False)
        return _Group(
            blocks=torch.tensor([block(path) for path in paths], device=device),
            master=master,
            up=torch.stack([pairs[path].up.to(device, self.dtype).flatten(1) for path in paths]),
            down=rows(pairs[path].down for path in paths),
            out=out,
        )

    def stacked(self, paths: Sequence[str]) -> torch.Tensor:
        """The merged weights of linear layers of one shape under each other, [n O, K], as a view.

        Raises:
            ValueError: They do not follow each other.
        """
        places = [self._place[path] for path in paths]
        group, start = places[0]
        if places != [(group, start + i) for i in range(len(paths))]:
            raise ValueError(f"{', '.join(paths)}: not stacked one after the other")
        return self._groups[group].out[start : start + len(paths)].flatten(0, 1)

    def merge(self, modulation: torch.Tensor) -> None:
        """Merge for one image. `modulation` is [1, blocks, r, r].

        Raises:
            PipelineError: More than one image; each needs weights of its own.
        """
        if modulation.shape[0] != 1:
            raise PipelineError("merged adapters serve one image at a time")
        matrices = modulation[0].to(self.dtype).transpose(1, 2)
        device = modulation.device.type
        # In the masters' precision also under autocast, which would make a `bmm` of halves.
        with nullcontext() if device == "meta" else torch.autocast(device, enabled=False):
            for group in self._groups:
                mixed = torch.bmm(group.up, matrices.index_select(0, group.blocks))
                kernels.merge_lora(group.master, mixed, group.down, self.scale, group.out)


def _is_nhwc(weight: torch.Tensor) -> bool:
    """Whether a convolution's weight lies in memory channels last (a 1x1 one does either way)."""
    return weight.dim() == 4 and weight.is_contiguous(memory_format=torch.channels_last)


def _flat(weight: torch.Tensor, *, nhwc: bool) -> torch.Tensor:
    """[O, ...] -> [O, K] in the order of memory."""
    return (weight.permute(0, 2, 3, 1) if nhwc else weight).flatten(1)


def _shaped(rows: torch.Tensor, shape: torch.Size, *, nhwc: bool) -> torch.Tensor:
    """[O, K] in the order of memory -> a weight of `shape`, as a view."""
    if not nhwc:
        return rows.view(shape)
    outputs, inputs, height, width = shape
    return rows.view(outputs, height, width, inputs).permute(0, 3, 1, 2)
