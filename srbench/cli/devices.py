"""Where a command computes."""

from __future__ import annotations

from typing import Annotated

import typer

from srbench.errors import UsageError

Device = Annotated[str, typer.Option(help="`cpu`, `cuda` or `auto`.")]


def choose_device(name: str) -> str:
    """`cpu` or `cuda` for what the user typed; `auto` takes CUDA where there is a device.

    Raises:
        UsageError: Unknown name, or no such device.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {name}: expected cpu, cuda or auto")
    if name == "cpu":
        return name
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise UsageError("--device cuda: no CUDA device here; use --device cpu")
    return "cpu"
