"""What seeded weights are made of: sizes, seed and the constants that keep activations sane.

Torch-free, so that the identity of such weights can be told without loading anything.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pipelines.s3diff.architecture import Architecture
from pipelines.stable_diffusion.architecture import published_json

RECIPE_VERSION = 1

Size = Literal["small", "full"]


@dataclass(frozen=True, slots=True)
class Ends:
    """Per-channel scale and bias of the last layer of each network.

    Chosen so that on a photograph the scaled latent and eps have a standard deviation of 0.068,
    which makes x0 about 1, and the picture has 0.45 around zero, so that few pixels clamp.
    """

    latent_scale: tuple[float, ...]
    latent_bias: tuple[float, ...]
    eps_scale: tuple[float, ...]
    eps_bias: tuple[float, ...]
    image_scale: tuple[float, ...]
    image_bias: tuple[float, ...]

    @classmethod
    def neutral(cls) -> Ends:
        """Before calibration."""
        return cls((1.0,) * 4, (0.0,) * 4, (1.0,) * 4, (0.0,) * 4, (1.0,) * 3, (0.0,) * 3)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that decides the values of seeded weights."""

    size: Size
    seed: int
    architecture: Architecture
    ends: Ends

    @property
    def digest(self) -> str:
        """SHA-256 of the recipe: equal digests mean equal weights on every machine."""
        content = json.dumps({"version": RECIPE_VERSION, **asdict(self)}, sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()


def small_text_encoder() -> dict[str, Any]:
    """`config.json` of a text encoder of two narrow layers over the bytes of a prompt."""
    return {
        **published_json("text_encoder/config.json"),
        "hidden_size": 48,
        "intermediate_size": 96,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "projection_dim": 48,
        "vocab_size": 514,
        "bos_token_id": 512,
        "eos_token_id": 513,
        "pad_token_id": 0,
    }


def small_architecture() -> Architecture:
    """A small S3Diff with every structural part of the published one, for seeded numbers."""
    unet = {
        **published_json("unet/config.json"),
        "block_out_channels": [32, 64, 64, 64],
        "attention_head_dim": [1, 2, 2, 2],
        "cross_attention_dim": 48,
    }
    vae = {
        **published_json("vae/config.json"),
        "block_out_channels": [16, 32, 32, 32],
        "norm_num_groups": 16,
    }
    return Architecture(
        unet=unet,
        vae=vae,
        text_encoder=small_text_encoder(),
        rank_unet=8,
        rank_vae=4,
        degradation_width=16,
        degradation_wide=32,
        degradation_hidden=64,
    )


# Printed by `python -m pipelines.s3diff.calibrate --size small|full` for seed 0.
_ENDS: dict[Size, Ends] = {
    "small": Ends(
        latent_scale=(0.6165, 0.6893, 0.8238, 0.638),
        latent_bias=(0.05074, 0.0673, 0.2744, -0.2282),
        eps_scale=(0.146, 0.1069, 0.1037, 0.1146),
        eps_bias=(-0.002952, 0.01091, 0.001628, 0.005319),
        image_scale=(0.7513, 1.095, 0.8102),
        image_bias=(0.2355, -0.4157, -0.2032),
    ),
    "full": Ends(
        latent_scale=(0.7051, 0.8184, 1.227, 0.6345),
        latent_bias=(-0.1135, 0.3764, 0.2606, -0.1269),
        eps_scale=(0.2211, 0.2315, 0.2658, 0.1961),
        eps_bias=(0.2109, 0.1368, 0.1412, 0.1026),
        image_scale=(0.634, 0.6566, 0.6186),
        image_bias=(-0.1302, -0.2011, 0.3564),
    ),
}


def recipe(size: Size, seed: int = 0, ends: Ends | None = None) -> Recipe:
    """The recipe of a small or the published (`full`) architecture.

    `ends` defaults to the constants of seed 0.
    """
    architecture = small_architecture() if size == "small" else Architecture.published()
    return Recipe(size, seed, architecture, ends or _ENDS[size])
