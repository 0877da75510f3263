"""The published files as one checked checkpoint in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipelines.contract import PipelineError, WeightsSource
from pipelines.osediff.adapter_file import AdapterFile, read_adapters
from pipelines.osediff.architecture import UNET_ADAPTERS, VAE_ADAPTER, Architecture
from pipelines.osediff.weight_sources import adapter_file
from pipelines.stable_diffusion.checkpoint import BaseCheckpoint, first_problem, paired
from pipelines.stable_diffusion.expected import (
    SHOWN,
    Shapes,
    differences,
    lora_shapes,
    meta_networks,
    network_shapes,
    spelled_as,
)
from pipelines.stable_diffusion.snapshot import Reading, Snapshot, read_snapshot
from pipelines.stable_diffusion.weight_folder import SNAPSHOT

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

    from pipelines.diffusion.lora import LoraPair


@dataclass(frozen=True, slots=True)
class Checkpoint(BaseCheckpoint):
    """All weights of one OSEDiff; `vae_lora` is of the encoder and of `quant_conv`."""

    architecture: Architecture


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


def expected_tensors(architecture: Architecture) -> dict[str, Shapes]:
    """Names and shapes of every tensor, by group.

    Returns:
        Group -> tensor name -> shape. Groups: `unet`, `vae`, `text_encoder` (names as the installed
        libraries spell them), `adapters_unet` and `adapters_vae`.

    Raises:
        PipelineError: A config cannot be built, or a list names a layer that its network lacks.
    """
    networks = meta_networks(architecture)
    unet, vae = networks["unet"], networks["vae"]
    adapters: Shapes = {
        f"{_conv_in(architecture)}.{kind}": shape
        for kind, shape in network_shapes(unet.get_submodule("conv_in")).items()
    }
    for name, layers in zip(UNET_ADAPTERS, architecture.unet_layers, strict=True):
        adapters |= lora_shapes(unet, _known(unet, layers), architecture.rank_unet, name)
    return {
        **{group: network_shapes(network) for group, network in networks.items()},
        "adapters_unet": adapters,
        "adapters_vae": lora_shapes(
            vae, _known(vae, architecture.vae_layers), architecture.rank_vae, VAE_ADAPTER
        ),
    }


def assemble(
    architecture: Architecture, found: dict[str, dict[str, Tensor]], tokenizer: Path
) -> Checkpoint:
    """The checkpoint of tensors in the groups of `expected_tensors`."""
    adapters, base = found["adapters_unet"], _conv_in(architecture)
    trained = {f"conv_in.{kind}": adapters[f"{base}.{kind}"] for kind in ("weight", "bias")}
    unet_lora: dict[str, LoraPair] = {}
    for name in UNET_ADAPTERS:
        unet_lora |= paired(adapters, name)
    return Checkpoint(
        architecture=architecture,
        unet={**found["unet"], **trained},
        vae=found["vae"],
        text_encoder=found["text_encoder"],
        unet_lora=unet_lora,
        vae_lora=paired(found["adapters_vae"], VAE_ADAPTER),
        tokenizer_folder=tokenizer,
    )


def _conv_in(architecture: Architecture) -> str:
    """How peft names the trained `conv_in`, which has its adapter beside it where it is adapted."""
    is_adapted = any("conv_in" in layers for layers in architecture.unet_layers)
    return "conv_in.base_layer" if is_adapted else "conv_in"


def _known(network: nn.Module, layers: tuple[str, ...]) -> tuple[str, ...]:
    from torch import nn

    known = {
        path
        for path, module in network.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    }
    unknown = [layer for layer in layers if layer not in known]
    if unknown:
        raise PipelineError(
            f"the adapters' lists name {', '.join(unknown[:SHOWN])}, which the networks of "
            "sd-turbo/ do not have; they belong to another model"
        )
    return layers


def _read(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    problems: list[str] = []
    if not folder.is_dir():
        missing = f"{folder}: no such folder; give --weights a folder, `mini` or `synthetic`"
        return None, [missing]
    reading = Reading(problems)
    snapshot = read_snapshot(folder, reading)
    path = reading.attempt(adapter_file, folder)
    adapters = None if path is None else reading.attempt(read_adapters, path)
    if snapshot is None or adapters is None:
        return None, problems
    return _checked(folder, path, snapshot, adapters)


def _checked(
    folder: Path, path: Path, snapshot: Snapshot, adapters: AdapterFile
) -> tuple[Checkpoint | None, list[str]]:
    architecture = Architecture(
        unet=snapshot.configs["unet"],
        vae=snapshot.configs["vae"],
        text_encoder=snapshot.configs["text_encoder"],
        rank_unet=adapters.rank_unet,
        rank_vae=adapters.rank_vae,
        unet_layers=adapters.unet_layers,
        vae_layers=adapters.vae_layers,
    )
    try:
        expected = expected_tensors(architecture)
    except PipelineError as error:
        return None, [f"{folder}: {error}"]
    found = {
        **snapshot.tensors,
        "text_encoder": spelled_as(expected["text_encoder"], snapshot.tensors["text_encoder"]),
        "adapters_unet": adapters.unet,
        "adapters_vae": adapters.vae,
    }
    problems: list[str] = []
    for group, shapes in expected.items():
        file = path if group.startswith("adapters") else folder / SNAPSHOT / group
        problems += differences(file, group, shapes, found[group])
    if problems:
        return None, problems
    # Files may hold them in any order; layers that are computed together are merged in this one.
    found = {group: {n: found[group][n] for n in shapes} for group, shapes in expected.items()}
    return assemble(architecture, found, folder / SNAPSHOT / "tokenizer"), []
