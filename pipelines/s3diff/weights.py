"""The authors' files as one checked checkpoint in float32."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipelines.contract import PipelineError, WeightsSource
from pipelines.s3diff.architecture import Architecture
from pipelines.s3diff.expected import expected_tensors
from pipelines.s3diff.folder import MLPS, SHOWN, WeightFiles, detached, read_files

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from torch import Tensor

    from pipelines.stable_diffusion.prompt import PromptEncoder

__all__ = ["Checkpoint", "LoraPair", "check_folder", "expected_tensors", "read_checkpoint"]


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

    def prompt_encoder(self, device: torch.device) -> PromptEncoder:
        """The tokenizer and the text encoder, the latter on `device`."""
        from pipelines.stable_diffusion.prompt import PromptEncoder

        return PromptEncoder(
            self.architecture.text_encoder, self.text_encoder, self.tokenizer_folder, device
        )


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


def _read(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    problems: list[str] = []
    files = read_files(folder, problems)
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
        "state_dict_unet": detached(files.adapters["state_dict_unet"]),
        "state_dict_vae": detached(files.adapters["state_dict_vae"]),
        "modulation": _flat_modulation(files.adapters),
        "degradation": files.degradation,
    }
    for group, shapes in expected.items():
        problems += _differences(paths[group], group, shapes, found[group])
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
            rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
            lines.append(
                f"{label}: {len(names)} of {len(expected)} tensors {what}: "
                f"{', '.join(names[:SHOWN])}{rest}; it belongs to another model or is damaged"
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
