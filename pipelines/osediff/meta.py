"""A checkpoint without storage, so that work is counted by the very code that runs."""

from __future__ import annotations

from pathlib import Path

import torch

from pipelines.osediff.architecture import Architecture
from pipelines.osediff.weights import Checkpoint, assemble, expected_tensors


def meta_checkpoint(architecture: Architecture) -> Checkpoint:
    """All tensors of `architecture` on the meta device."""
    tensors = {
        group: {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
        for group, shapes in expected_tensors(architecture).items()
    }
    return assemble(architecture, tensors, Path())
