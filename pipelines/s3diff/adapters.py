"""The modulated adapters of one network, merged into its weights or on a path of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from pipelines.diffusion.lora import LoraPair, wrap_layers
from pipelines.s3diff.lora import LoraMerger, ModulatedLora
from pipelines.stable_diffusion.options import LORA_ALPHA


class Adapters:
    """Sets the image's modulation in every adapted layer of one network.

    Args:
        network: Its layers are changed.
        state: Tensors of the unadapted network by name.
        pairs: Layer path -> adapter matrices.
        rank: LoRA rank.
        block: Layer path -> block index.
        merge: Into dense weights; else each layer computes its low-rank path.
    """

    def __init__(
        self,
        network: nn.Module,
        state: Mapping[str, torch.Tensor],
        pairs: Mapping[str, LoraPair],
        rank: int,
        block: Callable[[str], int],
        *,
        merge: bool,
    ) -> None:
        self._block = block
        self.merger: LoraMerger | None = None
        self._wrapped: dict[str, ModulatedLora] = {}
        if merge:
            self.merger = LoraMerger(network, state, pairs, rank, block)
            return
        self._wrapped = wrap_layers(network, pairs, LORA_ALPHA / rank, ModulatedLora)
        for layer in self._wrapped.values():
            layer.to(next(layer.base.parameters()))

    def modulate(self, matrices: torch.Tensor) -> None:
        """Set the image's modulation matrices [1, blocks, r, r]."""
        if self.merger is not None:
            self.merger.merge(matrices)
        for path, layer in self._wrapped.items():
            layer.modulation = matrices[:, self._block(path)]
