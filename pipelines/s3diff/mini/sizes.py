"""The small model's architecture: every structural part of the published one, 1/240 of its weights.

A network that learns needs groups of several channels: with one channel a group, normalisation
would forget how bright and how strong everything is. So groups are as wide as in SD-Turbo's VAE.
"""

from __future__ import annotations

from pipelines.s3diff.architecture import Architecture
from pipelines.s3diff.recipe import small_text_encoder
from pipelines.stable_diffusion.architecture import published_json


def architecture() -> Architecture:
    """Sizes of all networks of `mini`."""
    return Architecture(
        unet={
            **published_json("unet/config.json"),
            "block_out_channels": [32, 64, 64, 64],
            "attention_head_dim": [1, 2, 2, 2],
            "cross_attention_dim": 48,
            "norm_num_groups": 4,
        },
        vae={
            **published_json("vae/config.json"),
            "block_out_channels": [16, 32, 64, 64],
            "norm_num_groups": 4,
        },
        text_encoder=small_text_encoder(),
        rank_unet=8,
        rank_vae=4,
        degradation_width=16,
        degradation_wide=32,
        degradation_hidden=64,
    )
