"""Which tensors a checkpoint of a given architecture holds: derived from it, not listed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pipelines.stable_diffusion.expected import (
    Shapes,
    lora_shapes,
    meta_networks,
    network_shapes,
)

if TYPE_CHECKING:
    from torch import nn

    from pipelines.s3diff.architecture import Architecture

__all__ = ["Shapes", "expected_tensors", "is_unet_target", "is_vae_target", "meta_networks"]


def expected_tensors(architecture: Architecture) -> dict[str, Shapes]:
    """Names and shapes of every tensor, by group.

    Returns:
        Group -> tensor name -> shape. Groups: `unet`, `vae`, `text_encoder` (names as the installed
        libraries spell them), `state_dict_unet`, `state_dict_vae`, `modulation` (flat names) and
        `degradation`.

    Raises:
        PipelineError: A config describes a network that the installed libraries cannot build.
    """
    networks = meta_networks(architecture)
    unet, vae = networks["unet"], networks["vae"]
    unet_layers = [name for name, _ in _adaptable(unet) if is_unet_target(architecture, name)]
    vae_layers = [name for name, _ in _adaptable(vae) if is_vae_target(architecture, name)]
    trained = {
        name: tuple(tensor.shape)
        for name, tensor in unet.state_dict().items()
        if name.startswith("conv_in.")
    }
    return {
        **{group: network_shapes(network) for group, network in networks.items()},
        "state_dict_unet": trained
        | lora_shapes(unet, unet_layers, architecture.rank_unet, "default"),
        "state_dict_vae": lora_shapes(vae, vae_layers, architecture.rank_vae, "vae_skip"),
        "modulation": _modulation_shapes(architecture),
        "degradation": _degradation_shapes(architecture),
    }


def is_unet_target(architecture: Architecture, layer: str) -> bool:
    """Whether the UNet layer at this module path carries a LoRA."""
    return any(
        layer == target or layer.endswith(f".{target}") for target in architecture.unet_lora_targets
    )


def is_vae_target(architecture: Architecture, layer: str) -> bool:
    """Whether the VAE layer at this module path carries a LoRA."""
    return re.fullmatch(architecture.vae_lora_targets, layer) is not None


def _adaptable(network: nn.Module) -> list[tuple[str, nn.Module]]:
    from torch import nn

    return [
        (name, module)
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]


def _modulation_shapes(architecture: Architecture) -> Shapes:
    features, blocks = architecture.degradation_features, architecture.block_features
    fourier = 4 * architecture.fourier_features
    shapes: Shapes = {"w": (architecture.fourier_features,)}
    for net, rows, rank in (
        ("vae", architecture.vae_blocks, architecture.rank_vae),
        ("unet", architecture.unet_blocks, architecture.rank_unet),
    ):
        shapes |= {
            f"{net}_de_mlp.0.weight": (features, fourier),
            f"{net}_de_mlp.0.bias": (features,),
            f"{net}_block_mlp.0.weight": (blocks, architecture.block_embedding),
            f"{net}_block_mlp.0.bias": (blocks,),
            f"{net}_fuse_mlp.weight": (rank * rank, features + blocks),
            f"{net}_fuse_mlp.bias": (rank * rank,),
            f"{net}_block_embeddings.weight": (rows, architecture.block_embedding),
        }
    return shapes


def _degradation_shapes(architecture: Architecture) -> Shapes:
    narrow, wide = architecture.degradation_width, architecture.degradation_wide
    hidden = architecture.degradation_hidden
    shapes: Shapes = {}

    def layer(name: str, *shape: int) -> None:
        shapes[f"{name}.weight"] = shape
        shapes[f"{name}.bias"] = shape[:1]

    for branch in (0, 1):
        layer(f"conv_first.{branch}", narrow, 3, 3, 3)
        for index in range(9):
            if index == 6:
                layer(f"body.{branch}.6", wide, narrow, 3, 3)
                continue
            width = narrow if index < 6 else wide
            layer(f"body.{branch}.{index}.conv1", width, width, 3, 3)
            layer(f"body.{branch}.{index}.conv2", width, width, 3, 3)
        layer(f"fc_degree.{branch}.0", hidden, wide)
        layer(f"fc_degree.{branch}.2", 1, hidden)
    return shapes
