"""Where a run begins: seeded networks, stage 1's encoder, the state of an earlier process."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pipelines.contract import PipelineError
from pipelines.pictures import Note
from pipelines.srdiff.checkpoint import Tensors, read_encoder
from pipelines.srdiff.rrdb import RRDBNet
from pipelines.srdiff.training.objective import DiffusionObjective, EncoderObjective, Objective
from pipelines.srdiff.training.settings import Init, Settings, Stage
from pipelines.training.states import State, load_state


def build(settings: Settings, encoder: Tensors) -> Objective:
    """The networks with their initial weights: PyTorch's, the same for a seed on every device.

    Args:
        settings: Of the run.
        encoder: Weights of stage 1, for stage 2.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        if settings.stage is Stage.RRDB:
            objective = EncoderObjective(settings.architecture)
            if settings.init is Init.NEAREST:
                carry_picture(objective.rrdb)
            return objective
        return DiffusionObjective(
            settings.architecture,
            encoder,
            settings.loss,
            consistency=settings.consistency,
            train_encoder=settings.train_rrdb,
        )


@torch.no_grad()
def carry_picture(rrdb: RRDBNet) -> None:
    """Make the encoder's picture the nearest-neighbour upsampling of LR, to begin with.

    Three channels pass through all layers as they are (values from 0 pass a leaky ReLU); the other
    weights stay, and learn what to add.
    """
    parameters = dict(rrdb.named_parameters())
    tail = [f"upconv{index + 1}" for index in range(rrdb.upsamplings)]
    for name in ("conv_first", "trunk_conv", *tail, "HRconv", "conv_last"):
        weight, bias = parameters[f"{name}.weight"], parameters[f"{name}.bias"]
        weight[:3].zero_()
        bias[:3].zero_()
        if name != "trunk_conv":
            weight[range(3), range(3), 1, 1] = 1


def read_stage_one(path: Path | None, settings: Settings) -> Tensors:
    """The encoder that stage 2 builds on; nothing for stage 1.

    Raises:
        PipelineError: Not readable, or of another configuration.
    """
    if path is None:
        return {}
    try:
        return read_encoder(path, settings.architecture)
    except PipelineError as error:
        raise PipelineError(f"--rrdb {error} (for --config {settings.config})") from error


def tensors_fingerprint(tensors: Tensors) -> str:
    """Of names and values; empty for none."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16] if tensors else ""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a run must share with the state that it continues from."""

    settings: Settings
    data: str
    encoder: str

    @property
    def identity(self) -> dict[str, Any]:
        """As a state keeps it."""
        return {
            "settings": self.settings.to_json(),
            "data": self.data,
            "encoder": self.encoder,
        }


def find_state(folder: Path, origin: Origin, *, resume: bool, note: Note) -> State | None:
    """The state to continue from.

    Args:
        folder: Of the run.
        origin: What is asked for now.
        resume: Whether continuing is wanted at all.
        note: Told of damaged states.

    Raises:
        PipelineError: The folder holds a run that is not this one, or that is not to be continued.
    """
    state = load_state(folder, note)
    if state is None:
        return None
    if not resume:
        raise PipelineError(
            f"{folder}: holds a run of {state.step} steps; continue it with --resume, or choose "
            "another --out"
        )
    _refuse(folder, _changes(state, origin))
    if state.step > origin.settings.steps:
        raise PipelineError(
            f"{folder}: {state.step} steps are done already, --steps {origin.settings.steps} is "
            "less"
        )
    return state


def _changes(state: State, origin: Origin) -> list[str]:
    begun = state.identity
    changes = Settings.from_json(begun["settings"]).differences(origin.settings)
    if begun["data"] != origin.data:
        changes.append("other pictures in --data")
    if begun["encoder"] != origin.encoder:
        changes.append("another encoder in --rrdb")
    return changes


def _refuse(folder: Path, changes: Sequence[str]) -> None:
    if changes:
        raise PipelineError(
            f"{folder}: begun with {'; '.join(changes)}; give the same, or choose another --out"
        )
