"""A checkpoint without storage, so that work is counted by the very code that runs."""

from __future__ import annotations

from pathlib import Path

import torch

from pipelines.s3diff.architecture import Architecture
from pipelines.s3diff.weights import Checkpoint, expected_tensors
from pipelines.stable_diffusion.checkpoint import paired


def meta_checkpoint(architecture: Architecture) -> Checkpoint:
    """All tensors of `architecture` on the meta device."""
    tensors = {
        group: {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        for group, shapes in expected_tensors(architecture).items()
    }
    trained = tensors["state_dict_unet"]
    return Checkpoint(
        architecture=architecture,
        unet=tensors["unet"] | {k: v for k, v in trained.items() if k.startswith("conv_in.")},
        vae=tensors["vae"],
        text_encoder=tensors["text_encoder"],
        unet_lora=paired(trained, "default"),
        vae_lora=paired(tensors["state_dict_vae"], "vae_skip"),
        modulation=tensors["modulation"],
        degradation=tensors["degradation"],
        tokenizer_folder=Path(),
    )
