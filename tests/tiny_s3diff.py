"""Tiny seeded weights of S3Diff, for trainings that take seconds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipelines.s3diff.architecture import Architecture
from pipelines.s3diff.calibrate import calibrate, photograph
from pipelines.s3diff.recipe import Ends, Recipe, small_architecture
from pipelines.s3diff.synthesize import synthesize


def tiny_architecture() -> Architecture:
    """The published topology, one layer a block, attention where it is widest."""
    base = small_architecture()
    unet = {
        "block_out_channels": [32] * 4,
        "attention_head_dim": [1] * 4,
        "layers_per_block": 1,
        "norm_num_groups": 8,
        "down_block_types": ["CrossAttnDownBlock2D", *["DownBlock2D"] * 3],
        "up_block_types": [*["UpBlock2D"] * 3, "CrossAttnUpBlock2D"],
    }
    vae = {"block_out_channels": [8] * 4, "layers_per_block": 1, "norm_num_groups": 4}
    return replace(
        base,
        unet=base.unet | unet,
        vae=base.vae | vae,
        rank_unet=4,
        degradation_width=8,
        degradation_wide=8,
        degradation_hidden=8,
        fourier_features=8,
        degradation_features=16,
        block_embedding=8,
        block_features=8,
    )


def few_adapters() -> Architecture:
    """`tiny_architecture` with adapters in a few layers of each kind: steps take half as long."""
    return replace(
        tiny_architecture(),
        unet_lora_targets=("to_q", "proj_in", "conv1", "conv_out"),
        vae_lora_targets=r"^encoder\..*(conv1|conv_out)$",
    )


def write_sane_weights(folder: Path, architecture: Architecture) -> Path:
    """Whose activations have the sizes that those of trained networks have."""
    neutral = folder.with_name(f"{folder.name}-neutral")
    synthesize(neutral, Recipe("small", 0, architecture, Ends.neutral()))
    synthesize(folder, Recipe("small", 0, architecture, calibrate(neutral, photograph(16))))
    return folder
