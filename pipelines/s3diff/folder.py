"""All files of a weights folder, read one by one so that every problem is found at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.contract import PipelineError
from pipelines.s3diff.checkpoint_files import (
    read_json,
    read_pickle,
    read_safetensors,
    require_file,
)
from pipelines.s3diff.weight_sources import network_file

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

SHOWN = 3
"""How many names a message lists."""
MLPS = ("de_mlp", "block_mlp", "fuse_mlp")
_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}


@dataclass(frozen=True, slots=True)
class WeightFiles:
    """Contents by component.

    Attributes:
        configs: `unet`, `vae`, `text_encoder` -> `config.json`.
        tensors: The same -> tensors by the file's names (attention of old VAEs renamed).
        adapters: The dictionary of `s3diff.pkl`.
        degradation: Tensors of `de_net.pth`.
    """

    configs: dict[str, dict[str, Any]]
    tensors: dict[str, dict[str, Tensor]]
    adapters: dict[str, Any]
    degradation: dict[str, Tensor]


def read_files(folder: Path, problems: list[str]) -> WeightFiles | None:
    """Read everything that can be read; what cannot becomes a problem."""
    if not folder.is_dir():
        problems.append(f"{folder}: no such folder; give --weights a folder, `mini` or `synthetic`")
        return None

    def attempt(read: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return read(*arguments)
        except PipelineError as error:
            problems.append(str(error))
            return None

    snapshot = folder / "sd-turbo"
    configs = {
        name: attempt(_read_config, snapshot / name / "config.json", key)
        for name, key in (
            ("unet", "cross_attention_dim"),
            ("vae", "latent_channels"),
            ("text_encoder", "num_hidden_layers"),
        )
    }
    tensors = {
        "unet": attempt(_read_variant, snapshot / "unet", "diffusion_pytorch_model"),
        "vae": attempt(_read_variant, snapshot / "vae", "diffusion_pytorch_model"),
        "text_encoder": attempt(_read_variant, snapshot / "text_encoder", "model"),
    }
    attempt(_check_tokenizer, snapshot / "tokenizer")
    attempt(_check_scheduler, snapshot / "scheduler" / "scheduler_config.json")
    adapters = attempt(_read_adapters, folder / "s3diff.pkl")
    degradation = attempt(_read_degradation, folder / "de_net.pth")
    if problems:
        return None
    tensors["vae"] = _modern_attention(tensors["vae"])
    return WeightFiles(configs, tensors, adapters, degradation)


def _read_config(path: Path, key: str) -> dict[str, Any]:
    config = read_json(path)
    if key not in config:
        raise PipelineError(f"{path}: lacks '{key}', so it is the config of another model")
    return config


def _read_variant(folder: Path, stem: str) -> dict[str, Tensor]:
    return read_safetensors(network_file(folder, stem) or folder / f"{stem}.safetensors")


def _check_tokenizer(folder: Path) -> None:
    if (folder / "tokenizer.json").is_file():
        return
    require_file(folder / "vocab.json")
    require_file(folder / "merges.txt")


def _check_scheduler(path: Path) -> None:
    """The one-step formula is in closed form: refuse a snapshot with another noise schedule."""
    if not path.exists():
        return
    config = read_json(path)
    for key, value in _SCHEDULER.items():
        if config.get(key, value) != value:
            raise PipelineError(
                f"{path}: {key} is {config[key]!r} where SD-Turbo has {value!r}, "
                "so this is the snapshot of another model"
            )


def _read_adapters(path: Path) -> dict[str, Any]:
    content = read_pickle(path)
    needed: dict[str, type | tuple[type, ...]] = {
        "rank_unet": int,
        "rank_vae": int,
        "unet_lora_target_modules": (list, tuple, set),
        "vae_lora_target_modules": str,
        "state_dict_unet": dict,
        "state_dict_vae": dict,
        **{f"state_dict_{net}_{mlp}": dict for net in ("vae", "unet") for mlp in MLPS},
        "state_embeddings": dict,
    }
    wrong = [key for key, kind in needed.items() if not isinstance(content.get(key), kind)]
    if wrong or "w" not in content:
        found = ", ".join(map(str, list(content)[:SHOWN])) or "nothing"
        raise PipelineError(
            f"{path}: lacks {', '.join([*wrong, *(['w'] if 'w' not in content else [])][:SHOWN])} "
            f"(found {found}), so it is the checkpoint of another model, not of S3Diff"
        )
    return content


def _read_degradation(path: Path) -> dict[str, Tensor]:
    content = read_pickle(path)
    if "conv_first.0.weight" not in content or "fc_degree.0.0.weight" not in content:
        found = ", ".join(map(str, list(content)[:SHOWN])) or "nothing"
        raise PipelineError(
            f"{path}: no weights of the degradation network (found {found}), "
            "so it is the checkpoint of another model"
        )
    return detached(content)


def detached(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """The tensors among the values, as plain float32 ones."""
    import torch

    return {
        name: tensor.detach().float()
        for name, tensor in tensors.items()
        if isinstance(tensor, torch.Tensor)
    }


def _modern_attention(vae: dict[str, Tensor]) -> dict[str, Tensor]:
    """Old snapshots name the VAE's attention layers otherwise and store some as 1x1 kernels."""
    renamed = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    modern = {}
    for path, tensor in vae.items():
        layer, _, kind = path.rpartition(".")
        block, _, name = layer.rpartition(".")
        if ".attentions." in path and name in renamed:
            layer = f"{block}.{renamed[name]}"
        is_kernel = ".attentions." in path and tensor.dim() == 4
        modern[f"{layer}.{kind}"] = tensor.flatten(1) if is_kernel else tensor
    return modern
