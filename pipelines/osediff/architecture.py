"""The sizes of an OSEDiff checkpoint, and which layers the published one adapts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from pipelines.stable_diffusion.architecture import StableDiffusion, published_json

UNET_ADAPTERS = ("default_encoder", "default_decoder", "default_others")
"""Names of the UNet's three adapters, each over a list of layers of its own."""
VAE_ADAPTER = "default_encoder"
RANK = 4


@dataclass(frozen=True, slots=True)
class Architecture(StableDiffusion):
    """Sizes of all networks of one checkpoint.

    Attributes:
        rank_unet: Rank of the UNet's adapters.
        rank_vae: Rank of the VAE's adapter.
        unet_layers: Paths of the adapted layers, for each of `UNET_ADAPTERS`.
        vae_layers: Paths of the adapted layers of the VAE.
    """

    rank_unet: int
    rank_vae: int
    unet_layers: tuple[tuple[str, ...], ...]
    vae_layers: tuple[str, ...]

    @classmethod
    def published(cls) -> Architecture:
        """The architecture of `osediff.pkl` on Stable Diffusion 2.1."""
        return _published()


@cache
def _published() -> Architecture:
    names = ("unet", "vae", "text_encoder")
    return adapted(StableDiffusion(*(published_json(f"{name}/config.json") for name in names)))


def adapted(base: StableDiffusion, rank: int = RANK) -> Architecture:
    """`base` with the layers adapted that the published program adapts.

    All of the UNet but those of the time embedding, the VAE's encoder and its `quant_conv`.
    """
    from pipelines.stable_diffusion.expected import meta_networks

    networks = meta_networks(base)
    groups: dict[str, list[str]] = {name: [] for name in UNET_ADAPTERS}
    for path in _layers(networks["unet"]):
        if "time_emb" not in path:
            groups[_unet_adapter(path)].append(path)
    vae = [path for path in _layers(networks["vae"]) if path.startswith(("encoder.", "quant_"))]
    return Architecture(
        unet=base.unet,
        vae=base.vae,
        text_encoder=base.text_encoder,
        rank_unet=rank,
        rank_vae=rank,
        unet_layers=tuple(tuple(paths) for paths in groups.values()),
        vae_layers=tuple(vae),
    )


def _unet_adapter(path: str) -> str:
    if path.startswith(("down_blocks.", "conv_in")):
        return UNET_ADAPTERS[0]
    return UNET_ADAPTERS[1] if path.startswith(("up_blocks.", "conv_out")) else UNET_ADAPTERS[2]


def _layers(network: Any) -> list[str]:
    from torch import nn

    return [
        path
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    ]
