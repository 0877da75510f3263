"""Where training begins: a checkpoint, or base networks with adapters that change nothing yet."""

from __future__ import annotations

import math
import tempfile
import zlib
from dataclasses import replace
from pathlib import Path

import torch

from pipelines.contract import PipelineError, WeightsSource
from pipelines.s3diff.architecture import Architecture
from pipelines.s3diff.expected import expected_tensors
from pipelines.s3diff.published_pickle import published_pickle
from pipelines.s3diff.train.settings import LoraSettings
from pipelines.s3diff.weights import Checkpoint, read_checkpoint
from pipelines.stable_diffusion.checkpoint_files import read_json, read_pickle, read_safetensors
from pipelines.stable_diffusion.weight_folder import network_file
from pipelines.training.batches import reseed

Tensors = dict[str, torch.Tensor]
_MLP_GAIN = 1e-5


def open_start(folder: Path, lora: LoraSettings, seed: int) -> Checkpoint:
    """The checkpoint of a weights folder; without `s3diff.pkl` in it, with fresh adapters.

    Args:
        folder: `sd-turbo/`, `de_net.pth` and perhaps `s3diff.pkl`.
        lora: Ranks of fresh adapters; those of `s3diff.pkl` must be the same.
        seed: Of fresh adapters.

    Raises:
        PipelineError: Names the file that is wrong, or the rank that is another.
    """
    if not folder.is_dir():
        raise PipelineError(f"--weights {folder}: no such folder")
    if not (folder / "s3diff.pkl").exists():
        return _with_fresh_adapters(folder, lora, seed)
    checkpoint = read_checkpoint(_source(folder))
    for name in ("rank_unet", "rank_vae"):
        found, wanted = getattr(checkpoint.architecture, name), getattr(lora, name)
        if found != wanted:
            raise PipelineError(
                f"{folder / 's3diff.pkl'}: {name} is {found}, the recipe says {wanted}; give "
                f"--set lora.{name}={found}"
            )
    return checkpoint


def fresh_adapters(architecture: Architecture, seed: int) -> dict[str, Tensors]:
    """Adapters and modulators as the authors begin: the network computes what it did without them.

    LoRA "gaussian" as peft has it: A ~ N(0, 1/r) with 1/r the standard deviation, B = 0. MLPs
    Kaiming-normal times 1e-5 without biases, so that the modulation is about 0. Embeddings and the
    Fourier frequencies ~ N(0, 1). Each tensor follows from the seed and its name.

    Returns:
        `state_dict_unet` (without `conv_in`), `state_dict_vae` and `modulation`, as
        `pipelines.s3diff.expected` names them.
    """
    groups = ("state_dict_unet", "state_dict_vae", "modulation")
    expected = expected_tensors(architecture)
    return {
        group: {
            name: _fresh(f"{group}.{name}", shape, seed)
            for name, shape in expected[group].items()
            if not name.startswith("conv_in.")
        }
        for group in groups
    }


def _fresh(name: str, shape: tuple[int, ...], seed: int) -> torch.Tensor:
    if ".lora_B." in name or name.endswith(".bias"):
        return torch.zeros(shape)
    if ".lora_A." in name:
        deviation = 1 / shape[0]
    elif "_mlp." in name:
        deviation = _MLP_GAIN * math.sqrt(2 / shape[1])
    else:
        deviation = 1.0
    generator = reseed(torch.Generator(), seed, zlib.crc32(name.encode()))
    return torch.randn(shape, generator=generator) * deviation


def _with_fresh_adapters(folder: Path, lora: LoraSettings, seed: int) -> Checkpoint:
    """Through a folder beside which nothing is missing, so that one reader checks all files."""
    architecture = _architecture(folder, lora)
    fresh = fresh_adapters(architecture, seed)
    snapshot = folder / "sd-turbo"
    file = network_file(snapshot / "unet", "diffusion_pytorch_model")
    base = read_safetensors(file or snapshot / "unet" / "diffusion_pytorch_model.safetensors")
    conv_in = {name: tensor for name, tensor in base.items() if name.startswith("conv_in.")}
    with tempfile.TemporaryDirectory(prefix="srbench-start-") as scratch:
        complete = Path(scratch)
        for name in ("sd-turbo", "de_net.pth"):
            (complete / name).symlink_to((folder / name).resolve())
        content = published_pickle(
            architecture,
            conv_in | fresh["state_dict_unet"],
            fresh["state_dict_vae"],
            fresh["modulation"],
        )
        torch.save(content, complete / "s3diff.pkl")
        try:
            checkpoint = read_checkpoint(_source(complete))
        except PipelineError as error:
            raise PipelineError(str(error).replace(scratch, str(folder))) from error
    return replace(checkpoint, tokenizer_folder=snapshot / "tokenizer")


def _architecture(folder: Path, lora: LoraSettings) -> Architecture:
    snapshot = folder / "sd-turbo"
    degradation = read_pickle(folder / "de_net.pth")
    try:
        widths = [
            int(degradation[name].shape[0])
            for name in ("conv_first.0.weight", "body.0.6.weight", "fc_degree.0.0.weight")
        ]
    except (KeyError, AttributeError, IndexError) as error:
        raise PipelineError(
            f"{folder / 'de_net.pth'}: no weights of the degradation network, so it is the "
            "checkpoint of another model"
        ) from error
    return Architecture(
        unet=read_json(snapshot / "unet" / "config.json"),
        vae=read_json(snapshot / "vae" / "config.json"),
        text_encoder=read_json(snapshot / "text_encoder" / "config.json"),
        rank_unet=lora.rank_unet,
        rank_vae=lora.rank_vae,
        degradation_width=widths[0],
        degradation_wide=widths[1],
        degradation_hidden=widths[2],
    )


def _source(folder: Path) -> WeightsSource:
    return WeightsSource(path=folder, kind="folder", digest="", synthetic=False)
