"""A checkpoint without storage, so that work is counted by the very code that runs."""

from __future__ import annotations

from pathlib import Path

import torch

from pipelines.s3diff.architecture import Architecture
from pipelines.s3diff.weights import Checkpoint, LoraPair, expected_tensors


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
        unet_lora=_pairs(trained, "default"),
        vae_lora=_pairs(tensors["state_dict_vae"], "vae_skip"),
        modulation=tensors["modulation"],
        degradation=tensors["degradation"],
        tokenizer_folder=Path(),
    )


def _pairs(state: dict[str, torch.Tensor], adapter: str) -> dict[str, LoraPair]:
    suffix = f".lora_A.{adapter}.weight"
    layers = [name.removesuffix(suffix) for name in state if name.endswith(suffix)]
    return {
        layer: LoraPair(state[layer + suffix], state[f"{layer}.lora_B.{adapter}.weight"])
        for layer in layers
    }
