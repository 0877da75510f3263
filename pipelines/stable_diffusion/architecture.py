"""The sizes of Stable Diffusion's networks, and the published ones; torch-free."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True, slots=True)
class StableDiffusion:
    """Configs of the base networks.

    Attributes:
        unet: `config.json` of the diffusers UNet2DConditionModel.
        vae: `config.json` of the diffusers AutoencoderKL.
        text_encoder: `config.json` of the transformers CLIPTextModel.
    """

    unet: dict[str, Any]
    vae: dict[str, Any]
    text_encoder: dict[str, Any]


def published_json(name: str) -> dict[str, Any]:
    """A JSON file of the published SD-Turbo snapshot, by its path inside it.

    Its networks have the sizes of Stable Diffusion 2.1.
    """
    content: dict[str, Any] = json.loads(published_text(name))
    return content


def published_text(name: str) -> str:
    """A text file of that snapshot."""
    return (files(__package__) / "published" / name).read_text(encoding="utf-8")
