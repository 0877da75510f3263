"""Tensors of each picture on disk, one file a picture, so that memory holds one picture's."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pipelines.contract import PipelineError

Tensors = dict[str, torch.Tensor]


class Store:
    """A folder with the tensors of pictures 0, 1, … of one origin.

    Args:
        folder: Is made.
        origin: What the tensors follow from, by name; files of another origin are refused.

    Raises:
        PipelineError: The folder cannot be made.
    """

    def __init__(self, folder: Path, origin: Mapping[str, str]) -> None:
        self._folder = folder
        self._origin = json.dumps(dict(origin), sort_keys=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PipelineError(f"{folder}: cannot write ({error.strerror or error})") from error

    def __contains__(self, number: int) -> bool:
        """Whether a picture's tensors are there, whole.

        Raises:
            PipelineError: They are of another origin.
        """
        path = self._path(number)
        if not path.is_file():
            return False
        try:
            with safe_open(path, "pt") as file:
                origin = (file.metadata() or {}).get("origin")
        except (SafetensorError, OSError):
            return False
        if origin != self._origin:
            raise PipelineError(
                f"{path}: of other photographs, settings or weights; give another --work"
            )
        return True

    def put(self, number: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write a picture's tensors; after a kill they are there whole, or not at all.

        Raises:
            PipelineError: They cannot be written.
        """
        path = self._path(number)
        temporary = path.with_name(f".{path.name}.part")
        contiguous = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
        try:
            save_file(contiguous, temporary, {"origin": self._origin})
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            raise PipelineError(f"{path}: cannot write ({error})") from error

    def get(self, number: int) -> Tensors:
        """A picture's tensors.

        Raises:
            PipelineError: They are not there, or damaged.
        """
        path = self._path(number)
        try:
            with safe_open(path, "pt") as file:
                return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise PipelineError(
                f"{path}: cannot be read ({error}); remove it, the next call makes it again"
            ) from error

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.safetensors"
