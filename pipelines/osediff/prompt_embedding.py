"""A prompt's embedding from a file instead of from the text encoder."""

from __future__ import annotations

from pathlib import Path

import torch

from pipelines.contract import PipelineError
from pipelines.stable_diffusion.checkpoint_files import read_safetensors, read_torch
from pipelines.stable_diffusion.prompt import MAX_TOKENS


def read_embedding(path: Path, width: int) -> torch.Tensor:
    """Embedding [1, 77, width], float32 on the CPU.

    Args:
        path: `.safetensors` with one tensor, or what `torch.save` wrote of a tensor; PassionSR
            ships the one of the empty prompt as `empty_context_embedding.pt`.
        width: Of the UNet's cross-attention.

    Raises:
        PipelineError: The file is missing, damaged or unsafe, or holds something else.
    """
    if not path.is_file():
        raise PipelineError(f"{path}: no such file; give a prompt's embedding, or prompt=TEXT")
    if path.suffix == ".safetensors":
        tensors = list(read_safetensors(path).values())
    else:
        content = read_torch(path)
        tensors = list(content.values()) if isinstance(content, dict) else [content]
    shape = (1, MAX_TOKENS, width)
    tensor = tensors[0] if len(tensors) == 1 else None
    if not isinstance(tensor, torch.Tensor) or tuple(tensor.shape) != shape:
        found = "several things" if tensor is None else _described(tensor)
        raise PipelineError(
            f"{path}: holds {found} where a prompt's embedding is one tensor {list(shape)} for "
            "these weights"
        )
    embedding = tensor.detach().float()
    if not bool(embedding.isfinite().all()):
        raise PipelineError(f"{path}: holds numbers that are not finite; the file is damaged")
    return embedding


def _described(found: object) -> str:
    if isinstance(found, torch.Tensor):
        return f"a tensor {list(found.shape)}"
    return f"a {type(found).__name__}"
