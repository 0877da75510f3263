"""The authors' files as one checked checkpoint in float32."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.contract import PipelineError, WeightsSource
from pipelines.s3diff.architecture import Architecture
from pipelines.s3diff.expected import expected_tensors
from pipelines.s3diff.folder import MLPS, WeightFiles, read_files
from pipelines.stable_diffusion.checkpoint import BaseCheckpoint, first_problem, paired
from pipelines.stable_diffusion.expected import detached, differences, spelled_as

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

__all__ = ["Checkpoint", "check_folder", "expected_tensors", "read_checkpoint"]


@dataclass(frozen=True, slots=True)
class Checkpoint(BaseCheckpoint):
    """All weights of one S3Diff; `vae_lora` is of the encoder (`encoder.…`).

    Attributes:
        modulation: `w` and the MLPs and embeddings that make the modulation matrices, flat names
            such as `unet_de_mlp.0.weight`, `unet_fuse_mlp.bias`, `vae_block_embeddings.weight`.
        degradation: State dict of the degradation network.
    """

    architecture: Architecture
    modulation: dict[str, Tensor]
    degradation: dict[str, Tensor]


def read_checkpoint(source: WeightsSource) -> Checkpoint:
    """Read and check a weights folder.

    Raises:
        PipelineError: Names the first file that is wrong, how, and what to do.
    """
    checkpoint, problems = _read(source.path)
    if checkpoint is None:
        raise first_problem(problems, source.path)
    return checkpoint


def check_folder(folder: Path) -> list[str]:
    """Every problem of a weights folder, one line each; empty when it can be used."""
    return _read(folder)[1]


def _read(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    problems: list[str] = []
    files = read_files(folder, problems)
    if files is None or problems:
        return None, problems
    paths = {
        **{name: folder / "sd-turbo" / name for name in files.snapshot.tensors},
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
        **files.snapshot.tensors,
        "text_encoder": spelled_as(
            expected["text_encoder"], files.snapshot.tensors["text_encoder"]
        ),
        "state_dict_unet": detached(files.adapters["state_dict_unet"]),
        "state_dict_vae": detached(files.adapters["state_dict_vae"]),
        "modulation": _flat_modulation(files.adapters),
        "degradation": files.degradation,
    }
    for group, shapes in expected.items():
        problems += differences(paths[group], group, shapes, found[group])
    if problems:
        return None, problems
    # Files may hold them in any order; layers that are computed together are merged in this one.
    found = {group: {n: found[group][n] for n in shapes} for group, shapes in expected.items()}
    return _assemble(architecture, found, folder / "sd-turbo" / "tokenizer"), []


def _architecture(files: WeightFiles, folder: Path) -> Architecture:
    adapters, degradation = files.adapters, files.degradation
    modulation = _flat_modulation(adapters)

    def size(tensors: dict[str, Tensor], name: str, axis: int, file: str) -> int:
        tensor = tensors.get(name)
        if tensor is None or tensor.dim() <= axis:
            raise PipelineError(f"{folder / file}: lacks the tensor {name}; the file is damaged")
        return int(tensor.shape[axis])

    targets = adapters["unet_lora_target_modules"]
    return Architecture(
        unet=files.snapshot.configs["unet"],
        vae=files.snapshot.configs["vae"],
        text_encoder=files.snapshot.configs["text_encoder"],
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


def _flat_modulation(adapters: dict[str, Any]) -> dict[str, Tensor]:
    flat = {"w": adapters["w"]}
    for net in ("vae", "unet"):
        for mlp in MLPS:
            for name, tensor in adapters[f"state_dict_{net}_{mlp}"].items():
                flat[f"{net}_{mlp}.{name}"] = tensor
        with suppress(KeyError, TypeError):  # what is missing is reported with all the names
            rows = adapters["state_embeddings"][f"state_dict_{net}_block"]["weight"]
            flat[f"{net}_block_embeddings.weight"] = rows
    return detached(flat)


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
        unet_lora=paired(found["state_dict_unet"], "default"),
        vae_lora=paired(found["state_dict_vae"], "vae_skip"),
        modulation=found["modulation"],
        degradation=found["degradation"],
        tokenizer_folder=tokenizer,
    )
