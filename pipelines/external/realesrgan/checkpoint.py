"""The network's file: safetensors or the published `.pth`, checked tensor by tensor."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from pipelines.contract import PipelineError
from pipelines.external.realesrgan.network import RRDBNet, Shape
from pipelines.srdiff.checkpoint import find_problems
from pipelines.stable_diffusion.checkpoint_files import read_safetensors, read_torch

Tensors = dict[str, torch.Tensor]
_WRAPPERS = ("params_ema", "params")
_SHOWN = 3


def read_network(path: Path) -> tuple[Shape, Tensors]:
    """Sizes and float32 tensors of an RRDBNet.

    Args:
        path: `.safetensors`, or a file of `torch.save` with the tensors under `params_ema` or
            `params` (as published) or bare; read with `weights_only`.

    Raises:
        PipelineError: It cannot be read, or is not complete; names what is wrong.
    """
    content = read_safetensors(path) if path.suffix == ".safetensors" else read_torch(path)
    for key in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(map(torch.is_tensor, content.values())):
        raise PipelineError(
            f"{path}: holds no named tensors; Real-ESRGAN's file has them bare, or under "
            f"{' or '.join(_WRAPPERS)}"
        )
    tensors = {str(name): tensor.float() for name, tensor in content.items()}
    shape = _infer_shape(path, tensors)
    if problems := check_tensors(shape, tensors):
        more = f" and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise PipelineError(f"{path}: {'; '.join(problems[:_SHOWN])}{more}")
    return shape, tensors


def expected_tensors(shape: Shape) -> dict[str, tuple[int, ...]]:
    """Published name -> shape of every tensor."""
    with torch.device("meta"):
        network = RRDBNet(shape)
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def check_tensors(shape: Shape, tensors: Tensors) -> list[str]:
    """What is missing, surplus, of another shape or not finite: a line each."""
    return find_problems(tensors, expected_tensors(shape))


def _infer_shape(path: Path, tensors: Tensors) -> Shape:
    blocks = {int(m[1]) for name in tensors if (m := re.match(r"body\.(\d+)\.", name))}
    try:
        features = tensors["conv_first.weight"].shape[0]
        growth = tensors["body.0.rdb1.conv1.weight"].shape[0]
    except (KeyError, IndexError) as error:
        found = ", ".join(list(tensors)[:_SHOWN]) or "nothing"
        raise PipelineError(
            f"{path}: no network of Real-ESRGAN x4plus (conv_first, body.0.rdb1.conv1 … are "
            f"expected, found {found}); `srbench weights fetch --realesrgan` gets it"
        ) from error
    return Shape(features, growth, len(blocks))
