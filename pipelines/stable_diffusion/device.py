"""What a device can do: refuse what cannot run, tell what runs without its kernels.

The Triton kernels, flash attention and fp16 tensor cores as this package uses them need compute
capability 8.0 (A100, A10, L20, H100). An older card computes the same pictures with PyTorch's own
operators; a card that torch has no code for cannot run at all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from pipelines.contract import PipelineError
from pipelines.kernels.operators import OLDEST_CARD


@dataclass(frozen=True, slots=True)
class Card:
    """A device as far as the choice of kernels needs it.

    Attributes:
        name: The driver's name, or the device's type where there is no card.
        capability: Compute capability, None where there is no card.
    """

    name: str
    capability: tuple[int, int] | None

    @property
    def has_kernels(self) -> bool:
        """Whether the Triton kernels and flash attention run on it."""
        return self.capability is not None and self.capability >= OLDEST_CARD

    @property
    def remark(self) -> str:
        """What somebody who measures should know, one line."""
        if self.capability is None:
            return f"{self.name}: no card, PyTorch's own operators"
        found = f"{self.name} (sm{_number(self.capability)})"
        if self.has_kernels:
            return found
        return f"{found}: older than sm80, so PyTorch's own operators instead of fused kernels"


def check_device(device: torch.device) -> Card:
    """Look at the device that a pipeline is about to be loaded on.

    Raises:
        PipelineError: CUDA is asked for and torch cannot use it, or has no code for this card.
    """
    if device.type != "cuda":
        return Card(device.type, None)
    if not torch.backends.cuda.is_built():
        raise PipelineError(
            f"device {device}: torch {torch.__version__} is a build without CUDA; install one with "
            "it, or use the CPU"
        )
    if not torch.cuda.is_available():
        raise PipelineError(
            f"device {device}: torch {torch.__version__}, built for CUDA {torch.version.cuda}, "
            "finds no card that it can use; `srbench doctor` tells whether the driver is too old"
        )
    card = Card(torch.cuda.get_device_name(device), torch.cuda.get_device_capability(device))
    require_code(card, torch.cuda.get_arch_list())
    return card


def require_code(card: Card, architectures: Sequence[str]) -> None:
    """Refuse a card that a build of torch has no code for.

    Args:
        card: One with a capability.
        architectures: What the build was made for: `sm_80` is machine code for 8.0 and later
            8.x, `compute_90` is compiled by the driver for everything from 9.0 on.

    Raises:
        PipelineError: None of them runs on the card.
    """
    assert card.capability is not None
    built = [
        (match[1], (int(match[2]), int(match[3])))
        for match in (re.match(r"(sm|compute)_(\d+)(\d)", text) for text in architectures)
        if match
    ]
    usable = [
        least
        for kind, least in built
        if least <= card.capability and (kind == "compute" or least[0] == card.capability[0])
    ]
    if built and not usable:
        known = ", ".join(f"sm{_number(least)}" for _, least in sorted(built, key=lambda b: b[1]))
        raise PipelineError(
            f"{card.name} (sm{_number(card.capability)}): torch {torch.__version__} has code for "
            f"{known} only, which no option changes; install a torch for this card"
        )


def _number(capability: tuple[int, int]) -> str:
    return "".join(map(str, capability))
