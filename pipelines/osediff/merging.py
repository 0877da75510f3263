"""Adapters that never change, merged into dense weights once."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from pipelines.diffusion.lora import LoraPair, merged_weight
from pipelines.stable_diffusion.options import LORA_ALPHA


def merged_state(
    state: Mapping[str, torch.Tensor], pairs: Mapping[str, LoraPair], rank: int
) -> dict[str, torch.Tensor]:
    """The tensors of a network with its adapters in the weights.

    Args:
        state: Of the unadapted network; may be memory-mapped, and is left as it is.
        pairs: Layer path -> adapter matrices.
        rank: Of the adapters.

    Returns:
        The same names; W + (8 / rank) B A is summed in float64 and rounded once, to the dtype of W.
    """
    merged = {
        f"{path}.weight": merged_weight(state[f"{path}.weight"], pair, LORA_ALPHA / rank).to(
            state[f"{path}.weight"].dtype
        )
        for path, pair in pairs.items()
    }
    return {**state, **merged}
