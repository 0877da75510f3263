"""Seeded weights of the released size: times are real, pictures mean nothing."""

from __future__ import annotations

import zlib

import numpy as np
import torch

from pipelines.srdiff import schedule
from pipelines.srdiff.checkpoint import Checkpoint, from_tensors
from pipelines.srdiff.config import Config, checkpoint_shapes


def synthesize(config: Config) -> Checkpoint:
    """The same numbers on every machine: each tensor is seeded by its name.

    Weights have a standard deviation of 1 / sqrt(inputs), so that maps neither grow nor fade.
    """
    tensors = schedule.buffers(schedule.betas(config))
    for name, shape in checkpoint_shapes(config).items():
        if name not in tensors:
            random = np.random.RandomState(zlib.crc32(name.encode()))
            scale = 0.02 if len(shape) == 1 else float(np.prod(shape[1:])) ** -0.5
            values = (random.standard_normal(shape) * scale).astype(np.float32)
            tensors[name] = torch.from_numpy(values)
    return from_tensors(config, tensors)
