"""The base networks of a weights folder: a diffusers snapshot of a Stable Diffusion 2.1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.contract import PipelineError
from pipelines.stable_diffusion.checkpoint_files import read_json, read_safetensors, require_file
from pipelines.stable_diffusion.weight_folder import COMPONENTS, SNAPSHOT, network_file

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}
_LATENT_SCALE = 0.18215
"""Diffusers' default: the config of Stable Diffusion 2.1 base leaves it out."""
_TELLING = {
    "unet": "cross_attention_dim",
    "vae": "latent_channels",
    "text_encoder": "num_hidden_layers",
}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Contents by component: `unet`, `vae`, `text_encoder`.

    Attributes:
        configs: Component -> `config.json`.
        tensors: Component -> tensors by the file's names (attention of old VAEs renamed), float32.
    """

    configs: dict[str, dict[str, Any]]
    tensors: dict[str, dict[str, Tensor]]


class Reading:
    """Files read one by one, so that every problem is found at once.

    Args:
        problems: One line is added for each file that is bad.
    """

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems

    def attempt(self, read: Callable[..., Any], *arguments: Any) -> Any:
        """What `read` returns; None, and a problem more, where it refuses."""
        try:
            return read(*arguments)
        except PipelineError as error:
            self.problems.append(str(error))
            return None


def read_snapshot(folder: Path, reading: Reading) -> Snapshot | None:
    """Read everything that can be read of `folder/sd-turbo`; None where something cannot."""
    before, snapshot = len(reading.problems), folder / SNAPSHOT
    configs = {
        name: reading.attempt(_read_config, snapshot / name / "config.json", key)
        for name, key in _TELLING.items()
    }
    tensors = {
        name: reading.attempt(_read_variant, snapshot / name, stem)
        for name, stem in COMPONENTS.items()
    }
    reading.attempt(_check_tokenizer, snapshot / "tokenizer")
    reading.attempt(_check_scheduler, snapshot / "scheduler" / "scheduler_config.json")
    if len(reading.problems) > before:
        return None
    configs["vae"] = {"scaling_factor": _LATENT_SCALE} | configs["vae"]
    tensors["vae"] = _modern_attention(tensors["vae"])
    return Snapshot(configs, tensors)


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
                f"{path}: {key} is {config[key]!r} where Stable Diffusion 2.1 and SD-Turbo have "
                f"{value!r}, so this is the snapshot of another model"
            )


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
