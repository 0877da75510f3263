"""The authors' files as one checked checkpoint in float32."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.contract import PipelineError, WeightsSource
from pipelines.s3diff.architecture import Architecture
from pipelines.s3diff.checkpoint_files import (
    read_json,
    read_pickle,
    read_safetensors,
    require_file,
)
from pipelines.s3diff.expected import expected_tensors

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

__all__ = ["Checkpoint", "LoraPair", "check_folder", "expected_tensors", "read_checkpoint"]

_SHOWN = 3
_MLPS = ("de_mlp", "block_mlp", "fuse_mlp")
_SCHEDULER = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
}


@dataclass(frozen=True, slots=True)
class LoraPair:
    """One layer's low-rank matrices.

    Attributes:
        down: LoRA-A: [rank, in] or [rank, in, kh, kw].
        up: LoRA-B: [out, rank] or [out, rank, 1, 1].
    """

    down: Tensor
    up: Tensor


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """All weights of one S3Diff, float32 on the CPU; large files stay memory-mapped.

    Attributes:
        architecture: The sizes that the tensors have.
        unet: UNet2DConditionModel state dict, with the trained `conv_in` of `s3diff.pkl`.
        vae: AutoencoderKL state dict, attention layers named `to_q`, `to_k`, `to_v`, `to_out.0`.
        text_encoder: CLIPTextModel state dict as the installed transformers spells it.
        unet_lora: UNet layer path -> pair.
        vae_lora: VAE layer path (`encoder.…`) -> pair.
        modulation: `w` and the MLPs and embeddings that make the modulation matrices, flat names
            such as `unet_de_mlp.0.weight`, `unet_fuse_mlp.bias`, `vae_block_embeddings.weight`.
        degradation: State dict of the degradation network.
        tokenizer_folder: The snapshot's tokenizer.
    """

    architecture: Architecture
    unet: dict[str, Tensor]
    vae: dict[str, Tensor]
    text_encoder: dict[str, Tensor]
    unet_lora: dict[str, LoraPair]
    vae_lora: dict[str, LoraPair]
    modulation: dict[str, Tensor]
    degradation: dict[str, Tensor]
    tokenizer_folder: Path


def read_checkpoint(source: WeightsSource) -> Checkpoint:
    """Read and check a weights folder.

    Raises:
        PipelineError: Names the first file that is wrong, how, and what to do.
    """
    checkpoint, problems = _read(source.path)
    if checkpoint is None:
        more = len(problems) - 1
        hint = f" (and {more} more: `srbench weights check {source.path}`)" if more else ""
        raise PipelineError(problems[0] + hint)
    return checkpoint


def check_folder(folder: Path) -> list[str]:
    """Every problem of a weights folder, one line each; empty when it can be used."""
    return _read(folder)[1]


@dataclass(frozen=True, slots=True)
class _Files:
    configs: dict[str, dict[str, Any]]
    tensors: dict[str, dict[str, Tensor]]
    adapters: dict[str, Any]
    degradation: dict[str, Tensor]


def _read(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    problems: list[str] = []
    files = _read_files(folder, problems)
    if files is None or problems:
        return None, problems
    paths = {
        **{name: folder / "sd-turbo" / name for name in files.tensors},
        **dict.fromkeys(("state_dict_unet", "state_dict_vae"), folder / "s3diff.pkl"),
        "modulation": folder / "s3diff.pkl",
        "degradation": folder / "de_net.pth",
    }
    try:
        architecture = _architecture(files, folder)
        expected = expected_tensors(architecture)
    except PipelineError as error:
        return None, [str(error)]
    found = {
        **files.tensors,
        "text_encoder": _spelled_as(expected["text_encoder"], files.tensors["text_encoder"]),
        "state_dict_unet": _detached(files.adapters["state_dict_unet"]),
        "state_dict_vae": _detached(files.adapters["state_dict_vae"]),
        "modulation": _flat_modulation(files.adapters),
        "degradation": files.degradation,
    }
    for group, shapes in expected.items():
        problems += _differences(paths[group], group, shapes, found[group])
    if problems:
        return None, problems
    return _assemble(architecture, found, folder / "sd-turbo" / "tokenizer"), []


def _read_files(folder: Path, problems: list[str]) -> _Files | None:
    """Read everything that can be read; what cannot becomes a problem."""
    if not folder.is_dir():
        problems.append(f"{folder}: no such folder; give --weights a folder, `mini` or `synthetic`")
        return None

    def attempt(read: Any, *arguments: Any) -> Any:
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
    return _Files(configs, tensors, adapters, degradation)


def _read_config(path: Path, key: str) -> dict[str, Any]:
    config = read_json(path)
    if key not in config:
        raise PipelineError(f"{path}: lacks '{key}', so it is the config of another model")
    return config


def _read_variant(folder: Path, stem: str) -> dict[str, Tensor]:
    full, half = folder / f"{stem}.safetensors", folder / f"{stem}.fp16.safetensors"
    return read_safetensors(half if half.is_file() and not full.is_file() else full)


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
        **{f"state_dict_{net}_{mlp}": dict for net in ("vae", "unet") for mlp in _MLPS},
        "state_embeddings": dict,
    }
    wrong = [key for key, kind in needed.items() if not isinstance(content.get(key), kind)]
    if wrong or "w" not in content:
        found = ", ".join(map(str, list(content)[:_SHOWN])) or "nothing"
        raise PipelineError(
            f"{path}: lacks {', '.join([*wrong, *(['w'] if 'w' not in content else [])][:_SHOWN])} "
            f"(found {found}), so it is the checkpoint of another model, not of S3Diff"
        )
    return content


def _read_degradation(path: Path) -> dict[str, Tensor]:
    content = read_pickle(path)
    if "conv_first.0.weight" not in content or "fc_degree.0.0.weight" not in content:
        found = ", ".join(map(str, list(content)[:_SHOWN])) or "nothing"
        raise PipelineError(
            f"{path}: no weights of the degradation network (found {found}), "
            "so it is the checkpoint of another model"
        )
    return _detached(content)


def _architecture(files: _Files, folder: Path) -> Architecture:
    adapters, degradation = files.adapters, files.degradation
    modulation = _flat_modulation(adapters)

    def size(tensors: dict[str, Tensor], name: str, axis: int, file: str) -> int:
        tensor = tensors.get(name)
        if tensor is None or tensor.dim() <= axis:
            raise PipelineError(f"{folder / file}: lacks the tensor {name}; the file is damaged")
        return int(tensor.shape[axis])

    targets = adapters["unet_lora_target_modules"]
    return Architecture(
        unet=files.configs["unet"],
        vae=files.configs["vae"],
        text_encoder=files.configs["text_encoder"],
        rank_unet=adapters["rank_unet"],
        rank_vae=adapters["rank_vae"],
        unet_lora_targets=tuple(sorted(targets) if isinstance(targets, set) else targets),
        vae_lora_targets=adapters["vae_lora_target_modules"],
        degradation_width=size(degradation, "conv_first.0.weight", 0, "de_net.pth"),
        degradation_wide=size(degradation, "body.0.6.weight", 0, "de_net.pth"),
        degradation_hidden=size(degradation, "fc_degree.0.0.weight", 0, "de_net.pth"),
        fourier_features=size(modulation, "w", 0, "s3diff.pkl"),
        degradation_features=size(modulation, "unet_de_mlp.0.weight", 0, "s3diff.pkl"),
        block_embedding=size(modulation, "unet_block_embeddings.weight", 1, "s3diff.pkl"),
        block_features=size(modulation, "unet_block_mlp.0.weight", 0, "s3diff.pkl"),
    )


def _detached(tensors: dict[str, Any]) -> dict[str, Tensor]:
    import torch

    return {
        name: tensor.detach().float()
        for name, tensor in tensors.items()
        if isinstance(tensor, torch.Tensor)
    }


def _flat_modulation(adapters: dict[str, Any]) -> dict[str, Tensor]:
    flat = {"w": adapters["w"]}
    for net in ("vae", "unet"):
        for mlp in _MLPS:
            for name, tensor in adapters[f"state_dict_{net}_{mlp}"].items():
                flat[f"{net}_{mlp}.{name}"] = tensor
        with suppress(KeyError, TypeError):  # what is missing is reported with all the names
            rows = adapters["state_embeddings"][f"state_dict_{net}_block"]["weight"]
            flat[f"{net}_block_embeddings.weight"] = rows
    return _detached(flat)


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


def _spelled_as(
    expected: dict[str, tuple[int, ...]], tensors: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Rename text encoder tensors: transformers 5 dropped the `text_model.` prefix."""
    prefix = "text_model."
    names = {name.removeprefix(prefix): name for name in expected}
    return {
        names.get(name.removeprefix(prefix), name): tensor
        for name, tensor in tensors.items()
        if not name.endswith("position_ids")
    }


def _differences(
    path: Path, group: str, expected: dict[str, tuple[int, ...]], found: dict[str, Tensor]
) -> list[str]:
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    wrong = [
        f"{name} is {list(found[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    label = f"{path} ({group})"
    lines = []
    for what, names in (
        ("missing", missing),
        ("unexpected", unexpected),
        ("of the wrong shape", wrong),
    ):
        if names:
            rest = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            lines.append(
                f"{label}: {len(names)} of {len(expected)} tensors {what}: "
                f"{', '.join(names[:_SHOWN])}{rest}; it belongs to another model or is damaged"
            )
    return lines


def _assemble(
    architecture: Architecture, found: dict[str, dict[str, Tensor]], tokenizer: Path
) -> Checkpoint:
    trained = {
        name: tensor
        for name, tensor in found["state_dict_unet"].items()
        if name.startswith("conv_in.")
    }
    return Checkpoint(
        architecture=architecture,
        unet={**found["unet"], **trained},
        vae=found["vae"],
        text_encoder=found["text_encoder"],
        unet_lora=_pairs(found["state_dict_unet"], "default"),
        vae_lora=_pairs(found["state_dict_vae"], "vae_skip"),
        modulation=found["modulation"],
        degradation=found["degradation"],
        tokenizer_folder=tokenizer,
    )


def _pairs(tensors: dict[str, Tensor], adapter: str) -> dict[str, LoraPair]:
    down, up = f".lora_A.{adapter}.weight", f".lora_B.{adapter}.weight"
    return {
        name.removesuffix(down): LoraPair(tensor, tensors[name.removesuffix(down) + up])
        for name, tensor in tensors.items()
        if name.endswith(down)
    }
