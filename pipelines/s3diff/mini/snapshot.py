"""The small base networks in the layout of SD-Turbo, so that S3Diff's training can begin there."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from pipelines.s3diff.architecture import Architecture
from pipelines.s3diff.expected import expected_tensors
from pipelines.s3diff.recipe import Ends, Recipe
from pipelines.s3diff.synthesize import SNAPSHOT_FILES, byte_vocabulary, tensor
from pipelines.stable_diffusion.architecture import published_text

Tensors = dict[str, torch.Tensor]


def text_encoder_tensors(architecture: Architecture, seed: int) -> Tensors:
    """A text encoder of seeded random numbers: it only has to tell two prompts apart."""
    plan = Recipe("small", seed, architecture, Ends.neutral())
    shapes = expected_tensors(architecture)["text_encoder"]
    return {
        name: torch.from_numpy(tensor(plan, "text_encoder", name, shape))
        for name, shape in shapes.items()
    }


def write_tokenizer(folder: Path) -> None:
    """The scheduler's and the tokenizer's files of a small `sd-turbo/`."""
    for name in SNAPSHOT_FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(published_text(name), encoding="utf-8")
    vocabulary = json.dumps(byte_vocabulary(), indent=2) + "\n"
    (folder / "tokenizer" / "vocab.json").write_text(vocabulary, encoding="utf-8")
    (folder / "tokenizer" / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")


def write_base(
    folder: Path,
    architecture: Architecture,
    networks: dict[str, Tensors],
    degradation: Tensors,
) -> None:
    """Write `sd-turbo/` and `de_net.pth`.

    Args:
        folder: Made where it is not there.
        architecture: What the configurations say.
        networks: Tensors of `unet`, `vae` and `text_encoder`, as diffusers and transformers name
            them.
        degradation: Tensors of the degradation network.
    """
    snapshot = folder / "sd-turbo"
    write_tokenizer(snapshot)
    for component, config, stem in (
        ("unet", architecture.unet, "diffusion_pytorch_model"),
        ("vae", architecture.vae, "diffusion_pytorch_model"),
        ("text_encoder", architecture.text_encoder, "model"),
    ):
        (snapshot / component).mkdir(parents=True, exist_ok=True)
        text = json.dumps(config, indent=2) + "\n"
        (snapshot / component / "config.json").write_text(text, encoding="utf-8")
        tensors = {n: t.detach().cpu().contiguous() for n, t in networks[component].items()}
        save_file(tensors, snapshot / component / f"{stem}.safetensors", {"format": "pt"})
    torch.save({n: t.detach().cpu() for n, t in degradation.items()}, folder / "de_net.pth")
