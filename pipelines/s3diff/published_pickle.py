"""`s3diff.pkl` as the authors write it: one place that knows its keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pipelines.s3diff.folder import MLPS

if TYPE_CHECKING:
    from torch import Tensor

    from pipelines.s3diff.architecture import Architecture


def published_pickle(
    architecture: Architecture,
    unet: Mapping[str, Tensor],
    vae: Mapping[str, Tensor],
    modulation: Mapping[str, Tensor],
) -> dict[str, Any]:
    """The dictionary of the published `save_model` (s3diff_tile.py).

    Args:
        architecture: Its ranks and target lists are stored.
        unet: `conv_in.*` and `<layer>.lora_{A,B}.default.weight`.
        vae: `<layer>.lora_{A,B}.vae_skip.weight`.
        modulation: Flat names, as in `pipelines.s3diff.expected`.
    """
    from torch import nn

    def part(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(f"{prefix}."): value
            for name, value in modulation.items()
            if name.startswith(f"{prefix}.")
        }

    return {
        "unet_lora_target_modules": list(architecture.unet_lora_targets),
        "vae_lora_target_modules": architecture.vae_lora_targets,
        "rank_unet": architecture.rank_unet,
        "rank_vae": architecture.rank_vae,
        "state_dict_unet": dict(unet),
        "state_dict_vae": dict(vae),
        **{
            f"state_dict_{net}_{mlp}": part(f"{net}_{mlp}")
            for net in ("vae", "unet")
            for mlp in MLPS
        },
        "w": nn.Parameter(modulation["w"], requires_grad=False),
        "state_embeddings": {
            f"state_dict_{net}_block": part(f"{net}_block_embeddings") for net in ("vae", "unet")
        },
    }
