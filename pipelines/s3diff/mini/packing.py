"""The small model in one file, and back in the layout that the pipelines read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import safe_open
from safetensors.torch import save_file

from pipelines.contract import WeightsSource
from pipelines.photographs import TRAINING
from pipelines.s3diff.mini.sizes import architecture
from pipelines.s3diff.mini.snapshot import Tensors, write_base
from pipelines.s3diff.published_pickle import published_pickle
from pipelines.s3diff.weights import read_checkpoint

if TYPE_CHECKING:
    from pipelines.s3diff.weights import Checkpoint

_ADAPTER = {"unet_lora": "default", "vae_lora": "vae_skip"}


def pack(folder: Path, path: Path) -> Path:
    """Write all tensors of a weights folder of the small architecture in float16.

    Args:
        folder: `sd-turbo/`, `s3diff.pkl`, `de_net.pth`.
        path: Of the safetensors file, whole or not there.
    """
    checkpoint = read_checkpoint(WeightsSource(folder, "folder", "", synthetic=False))
    tensors = {
        f"{group}.{name}": tensor.half().contiguous()
        for group, content in _groups(checkpoint).items()
        for name, tensor in content.items()
    }
    credits = "; ".join(f"{who}: {', '.join(names)}" for who, names in TRAINING.items())
    temporary = path.with_name(f".{path.name}.part")
    save_file(tensors, temporary, {"format": "pt", "photographs": credits})
    temporary.replace(path)
    return path


def unpack(path: Path, folder: Path) -> None:
    """Write the weights folder of a packed file; the adapters in the authors' format."""
    groups: dict[str, Tensors] = {}
    with safe_open(path, framework="pt") as file:
        for full in file.keys():  # noqa: SIM118
            group, _, name = full.partition(".")
            groups.setdefault(group, {})[name] = file.get_tensor(full).float()
    sizes = architecture()
    networks = {name: groups[name] for name in ("unet", "vae", "text_encoder")}
    write_base(folder, sizes, networks, groups["degradation"])
    trained = {n: t for n, t in groups["unet"].items() if n.startswith("conv_in.")}
    content = published_pickle(
        sizes, trained | groups["unet_lora"], groups["vae_lora"], groups["modulation"]
    )
    torch.save(content, folder / "s3diff.pkl")


def _groups(checkpoint: Checkpoint) -> dict[str, Tensors]:
    return {
        **{
            name: getattr(checkpoint, name)
            for name in ("unet", "vae", "text_encoder", "modulation", "degradation")
        },
        **{
            group: {
                f"{layer}.lora_{letter}.{adapter}.weight": matrix
                for layer, pair in getattr(checkpoint, group).items()
                for letter, matrix in (("A", pair.down), ("B", pair.up))
            }
            for group, adapter in _ADAPTER.items()
        },
    }
