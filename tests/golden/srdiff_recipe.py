"""Weights behind SRDiff's golden numbers: all of them follow from the tensors' names."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.srdiff import schedule
from pipelines.srdiff.checkpoint import Checkpoint, from_tensors
from pipelines.srdiff.config import SCHEDULE_BUFFERS, Config, checkpoint_shapes

Fill = Callable[[str, tuple[int, ...]], NDArray[np.floating]]

GOLDEN = Config(hidden_size=16, dim_mults=(1, 2, 2, 4))
"""The small network that the authors' program was run with."""


def golden_tensors(config: Config = GOLDEN) -> dict[str, torch.Tensor]:
    """`tiny_x4.ckpt` bit by bit, or such a checkpoint of another configuration.

    Normal numbers of a generator seeded with the CRC of the name; matrices are divided by the root
    of the fan, vectors multiplied by 0.05.
    """
    return _tensors(config, _drawn)


def golden_checkpoint() -> Checkpoint:
    """The same, sorted by network."""
    return from_tensors(GOLDEN, golden_tensors())


def filled_checkpoint(config: Config) -> Checkpoint:
    """A network filled by the rule of the specification's float64 numbers, in float64."""
    return from_tensors(config, _tensors(config, _filled))


def ramp(shape: tuple[int, ...], length: int, scale: float) -> NDArray[np.float64]:
    """The rule's numbers: (2 frac(sin(12.9898 k + 78.233 L) 43758.5453) - 1) scale, k from 1."""
    k = np.arange(1, math.prod(shape) + 1, dtype=np.float64)
    values = np.sin(12.9898 * k + 78.233 * length) * 43758.5453
    return ((2 * (values - np.floor(values)) - 1) * scale).reshape(shape)


def _tensors(config: Config, fill: Fill) -> dict[str, torch.Tensor]:
    tables = schedule.buffers(schedule.betas(config))
    shapes = checkpoint_shapes(config)
    learned = {name: shape for name, shape in shapes.items() if name not in SCHEDULE_BUFFERS}
    return tables | {name: torch.from_numpy(fill(name, s)) for name, s in learned.items()}


def _drawn(name: str, shape: tuple[int, ...]) -> NDArray[np.float32]:
    scale = 1 / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 0.05
    normal = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    return (normal * scale).astype(np.float32)


def _filled(name: str, shape: tuple[int, ...]) -> NDArray[np.float64]:
    gain = 0.02 if len(shape) == 1 else math.sqrt(3 / math.prod(shape[1:]))
    return ramp(shape, len(name), gain)
