"""Rebuilds the small weights that the golden outputs were computed with.

Every tensor follows from its name: `RandomState(crc32(name)).standard_normal(shape) * scale`.
"""

from __future__ import annotations

import math
import shutil
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from pipelines.s3diff.architecture import Architecture
from pipelines.s3diff.expected import expected_tensors
from pipelines.stable_diffusion.checkpoint_files import read_json

DATA = Path(__file__).parent / "data"
FILES = {
    "unet": "unet/diffusion_pytorch_model.safetensors",
    "vae": "vae/diffusion_pytorch_model.safetensors",
    "text_encoder": "text_encoder/model.safetensors",
}


def golden_architecture() -> Architecture:
    """Small widths; ranks, modulators and degradation network of the published size."""
    configs = {name: read_json(DATA / "sd-turbo" / name / "config.json") for name in FILES}
    return Architecture(**configs)


def write_golden_weights(folder: Path) -> Path:
    """Write `sd-turbo/`, `s3diff.pkl` and `de_net.pth` into `folder`."""
    architecture = golden_architecture()
    shapes = expected_tensors(architecture)
    shutil.copytree(DATA / "sd-turbo", folder / "sd-turbo")
    unet_conv_in = None
    for group, file in FILES.items():
        tensors = {}
        for key, shape in shapes[group].items():
            name = f"text_model.{key.removeprefix('text_model.')}" if group[0] == "t" else key
            tensors[name] = torch.from_numpy(_module_tensor(f"{group}.{name}", shape))
        if group == "vae":
            tensors["quant_conv.bias"][4:] = -6
        if group == "unet":
            unet_conv_in = tensors["conv_in.weight"], tensors["conv_in.bias"]
        save_file(tensors, folder / "sd-turbo" / file)
    assert unet_conv_in is not None
    degradation = {
        key: torch.from_numpy(_degradation_tensor(key, shape))
        for key, shape in shapes["degradation"].items()
    }
    torch.save(degradation, folder / "de_net.pth")
    weight, bias = unet_conv_in
    trained = weight + torch.from_numpy(_draw("s3diff.unet.conv_in", weight.shape, 0.02))
    torch.save(_adapters(architecture, shapes, trained, bias), folder / "s3diff.pkl")
    return folder


def _adapters(
    architecture: Architecture,
    shapes: dict[str, dict[str, tuple[int, ...]]],
    conv_in_weight: torch.Tensor,
    conv_in_bias: torch.Tensor,
) -> dict[str, Any]:
    def lora(net: str) -> dict[str, torch.Tensor]:
        return {
            key: torch.from_numpy(_draw(f"s3diff.{net}.{key}", shape, 0.7 / _fan(shape)))
            for key, shape in shapes[f"state_dict_{net}"].items()
            if ".lora_" in key
        }

    def part(prefix: str, gain: float = 1.0) -> dict[str, torch.Tensor]:
        return {
            name.removeprefix(f"{prefix}."): torch.from_numpy(
                _module_tensor(f"s3diff.{name}", shape, gain)
            )
            for name, shape in shapes["modulation"].items()
            if name.startswith(f"{prefix}.")
        }

    nets = ("vae", "unet")
    return {
        "unet_lora_target_modules": list(architecture.unet_lora_targets),
        "vae_lora_target_modules": architecture.vae_lora_targets,
        "rank_unet": architecture.rank_unet,
        "rank_vae": architecture.rank_vae,
        "state_dict_unet": {
            "conv_in.weight": conv_in_weight,
            "conv_in.bias": conv_in_bias,
            **lora("unet"),
        },
        "state_dict_vae": lora("vae"),
        **{f"state_dict_{net}_de_mlp": part(f"{net}_de_mlp") for net in nets},
        **{f"state_dict_{net}_block_mlp": part(f"{net}_block_mlp") for net in nets},
        **{f"state_dict_{net}_fuse_mlp": part(f"{net}_fuse_mlp", 0.5) for net in nets},
        "w": torch.nn.Parameter(
            torch.from_numpy(_draw("s3diff.w", (architecture.fourier_features,), 1.0)),
            requires_grad=False,
        ),
        "state_embeddings": {
            f"state_dict_{net}_block": part(f"{net}_block_embeddings") for net in nets
        },
    }


def _draw(name: str, shape: tuple[int, ...], scale: float) -> NDArray[np.float32]:
    normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return (normal * scale).astype(np.float32)


def _fan(shape: tuple[int, ...]) -> float:
    return math.sqrt(math.prod(shape[1:]))


def _module_tensor(name: str, shape: tuple[int, ...], gain: float = 1.0) -> NDArray[np.float32]:
    if len(shape) > 1:
        return _draw(name, shape, gain / _fan(shape))
    if name.endswith("weight"):
        return np.float32(1) + _draw(name, shape, 0.1)
    return _draw(name, shape, 0.05)


def _degradation_tensor(key: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    values = _module_tensor(f"de_net.{key}", shape, 0.6)
    if key.startswith("fc_degree.") and key.endswith("weight"):
        values *= np.float32(6)
    return values
