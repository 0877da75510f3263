"""Read SRDiff checkpoints: the published layout or safetensors, checked name by name."""

from __future__ import annotations

import pickle
import re
import warnings
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from pipelines.contract import PipelineError
from pipelines.replacing import replacing
from pipelines.srdiff import schedule
from pipelines.srdiff.config import (
    CONDITION_EVERY,
    LEVELS,
    SCHEDULE_BUFFERS,
    Config,
    Shapes,
    checkpoint_shapes,
    rrdb_shapes,
)
from pipelines.torch_files import UNREADABLE

Tensors = dict[str, torch.Tensor]
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A network's tensors, complete and of the right shapes, float32 on the CPU.

    Attributes:
        config: What their shapes say.
        buffers: Tables of the diffusion, as stored.
        unet: Of `pipelines.srdiff.unet.UNet`.
        rrdb: Of `pipelines.srdiff.rrdb.RRDBNet`.
    """

    config: Config
    buffers: Tensors
    unet: Tensors
    rrdb: Tensors


def read_checkpoint(path: Path, **expected: Any) -> Checkpoint:
    """Read a whole SRDiff network.

    Args:
        path: `torch.save` file in the published layout, legacy or zip, or `.safetensors` with the
            same names. Read with `weights_only`.
        expected: Fields of `Config` that it must have.

    Raises:
        PipelineError: Not such a file, or of another configuration; names what is wrong.
    """
    tensors = read_tensors(path)
    config = infer_config(path, tensors)
    for name, wanted in expected.items():
        if (found := getattr(config, name)) != wanted:
            raise PipelineError(f"{path}: {name} is {found} in this checkpoint, not {wanted}")
    if problems := find_problems(tensors, checkpoint_shapes(config)):
        raise PipelineError(_summary(path, problems))
    return from_tensors(config, tensors)


def from_tensors(config: Config, tensors: Tensors) -> Checkpoint:
    """Sort the tensors of a complete checkpoint by network."""
    return Checkpoint(
        config=config,
        buffers={name: tensors[name] for name in SCHEDULE_BUFFERS},
        unet=_of_prefix(tensors, "denoise_fn."),
        rrdb=_of_prefix(tensors, "rrdb."),
    )


def read_encoder(path: Path, config: Config) -> Tensors:
    """The encoder of an RRDB-only or of a whole checkpoint.

    Raises:
        PipelineError: Not such a file, or an encoder of another configuration.
    """
    tensors = read_tensors(path)
    tensors = _of_prefix(tensors, "rrdb.") or tensors
    if problems := find_problems(tensors, rrdb_shapes(config)):
        raise PipelineError(_summary(path, problems))
    return tensors


def read_tensors(path: Path) -> Tensors:
    """The flat names and tensors of a file, prefixes of the published layouts removed.

    Raises:
        PipelineError: It cannot be read, or holds no tensors.
    """
    if not path.is_file():
        raise PipelineError(f"{path}: no such checkpoint file")
    try:
        content = _load(path)
    except UNREADABLE as error:
        raise PipelineError(
            f"{path}: {_why_unreadable(path, error)}; a torch.save file in the published layout or "
            "safetensors is expected"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict):
        raise PipelineError(f"{path}: holds {type(content).__name__}, not named tensors")
    tensors = {str(k).removeprefix("model."): v for k, v in content.items()}
    stray = next((name for name, value in tensors.items() if not _is_plain(value)), None)
    if not tensors or stray is not None:
        what = "nothing" if stray is None else f"'{stray}', which is no plain tensor"
        raise PipelineError(f"{path}: holds {what}; state_dict -> model -> tensors is expected")
    return {name: tensor.float() for name, tensor in tensors.items()}


def write_checkpoint(path: Path, tensors: Tensors, step: int) -> None:
    """Write tensors in the published layout, atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"global_step": step, "state_dict": {"model": tensors}}
    with replacing(path) as file:
        torch.save(content, file)


def infer_config(path: Path, tensors: Tensors) -> Config:
    """The configuration that the shapes of a checkpoint tell.

    Raises:
        PipelineError: A tensor that tells is missing or has an impossible shape.
    """
    prefix = "denoise_fn."
    try:
        _, base, kernel, _ = tensors[f"{prefix}cond_proj.weight"].shape
        tops = [
            tensors[f"{prefix}downs.{level}.0.block1.block.1.weight"].shape[0]
            for level in range(LEVELS)
        ]
        features = tensors["rrdb.conv_first.weight"].shape[0]
        beta = tensors["betas"]
        steps = beta.shape[0]
    except KeyError as error:
        raise PipelineError(
            f"{path}: tensor {error} is missing: this is no SRDiff checkpoint"
        ) from error
    except (ValueError, IndexError) as error:
        raise PipelineError(
            f"{path}: {prefix}cond_proj.weight or another tensor that tells the configuration has "
            "the wrong dimensions"
        ) from error
    blocks = {m[1] for name in tensors if (m := re.match(r"rrdb\.RRDB_trunk\.(\d+)\.", name))}
    if not base or any(width % base for width in tops):
        raise PipelineError(f"{path}: level widths {tops} are no multiples of {base}")
    try:
        config = Config(
            scale=kernel // 2,
            hidden_size=base,
            dim_mults=tuple(width // base for width in tops),
            rrdb_features=features,
            rrdb_blocks=max(len(blocks), CONDITION_EVERY - 1),
            timesteps=steps,
        )
    except PipelineError as error:
        raise PipelineError(f"{path}: {error}") from error
    return _with_schedule(config, beta)


def find_problems(tensors: Tensors, shapes: Shapes) -> list[str]:
    """What is missing, surplus or of another shape, a line each."""
    problems = [f"{name}: missing" for name in shapes if name not in tensors]
    problems += [f"{name}: unknown" for name in tensors if name not in shapes]
    problems += [
        f"{name}: {list(tensors[name].shape)} where {list(shape)} is expected"
        for name, shape in shapes.items()
        if name in tensors and tuple(tensors[name].shape) != shape
    ]
    broken = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    return problems + [f"{name}: NaN or infinite values" for name in broken]


def _with_schedule(config: Config, beta: torch.Tensor) -> Config:
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    linear = Config(**{**values, "schedule": "linear"})
    is_linear = torch.allclose(schedule.betas(linear).float(), beta, atol=1e-6)
    return linear if is_linear else config


def _of_prefix(tensors: Tensors, prefix: str) -> Tensors:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(str(error)) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an odd pickle protocol ends in an error anyway
        return torch.load(path, map_location="cpu", weights_only=True)


def _is_plain(value: object) -> bool:
    """Numbers in memory: not sparse, complex, or without contents."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_complex()
    )


def _why_unreadable(path: Path, error: Exception) -> str:
    if isinstance(error, PermissionError):
        return f"cannot be read ({error.strerror})"
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK" or start[:1] == b"\x80":
        if isinstance(error, pickle.UnpicklingError):
            return "refused, the pickle asks for more than tensors and could run code of its author"
    elif start and path.suffix != ".safetensors":
        return "no checkpoint (a text file or another format)"
    return "truncated or damaged"


def _summary(path: Path, problems: list[str]) -> str:
    rest = len(problems) - _SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    return f"{path}: {'; '.join(problems[:_SHOWN])}{more}"
