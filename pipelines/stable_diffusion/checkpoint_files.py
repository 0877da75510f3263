"""Reading the files of a weights folder; every way in which one can be bad is a sentence."""

from __future__ import annotations

import json
import pickle
import struct
import warnings
from typing import TYPE_CHECKING, Any

from pipelines.contract import PipelineError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

LAYOUTS = (
    "a weights folder holds sd-turbo/ with s3diff.pkl and de_net.pth (S3Diff; `srbench weights "
    "fetch` downloads them) or with osediff.pkl (OSEDiff)"
)
_AGAIN = "download it again"
_BROKEN = (
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    AttributeError,
    TypeError,
    AssertionError,
    struct.error,
)


def require_file(path: Path) -> None:
    """Raise PipelineError when `path` is not a readable, non-empty file."""
    try:
        size = path.stat().st_size
    except OSError:
        size = -1
    if size < 0 or not path.is_file():
        raise PipelineError(f"{path}: missing; {LAYOUTS}")
    if size == 0:
        raise PipelineError(f"{path}: the file is empty; {_AGAIN}")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object."""
    require_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise PipelineError(f"{path}: not readable as JSON ({error}); {_AGAIN}") from error
    if not isinstance(content, dict):
        raise PipelineError(f"{path}: holds no JSON object; {_AGAIN}")
    return content


def read_pickle(path: Path) -> dict[str, Any]:
    """The dictionary that `torch.save` wrote, read without running anything in it."""
    content = read_torch(path)
    if not isinstance(content, dict):
        raise PipelineError(
            f"{path}: holds a {type(content).__name__} where a checkpoint is a dictionary; "
            "it is a file of another program"
        )
    return content


def read_torch(path: Path) -> Any:
    """What `torch.save` wrote, of plain things and tensors, read without running anything in it."""
    import torch

    require_file(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an odd pickle protocol ends in an error anyway
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise PipelineError(_refusal(path)) from error
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read ({error.strerror})") from error
    except _BROKEN as error:
        raise PipelineError(f"{path}: truncated or damaged; {_AGAIN}") from error


def _refusal(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(2)
    if start == b"PK" or start[:1] == b"\x80":
        return (
            f"{path}: refused, the pickle asks for more than tensors and could run code of its "
            f"author; {_AGAIN} from the publisher"
        )
    return f"{path}: not a PyTorch checkpoint (a text file or another format); {_AGAIN}"


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of the file, memory-mapped, as float32; integer buffers are left out."""
    from safetensors import SafetensorError, safe_open

    require_file(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise PipelineError(
            f"{path}: truncated or not a safetensors file ({error}); {_AGAIN}"
        ) from error
    return {name: t.float() for name, t in tensors.items() if t.is_floating_point()}
