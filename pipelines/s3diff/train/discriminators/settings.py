"""Which discriminator a training uses."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipelines.contract import PipelineError


class Kind(StrEnum):
    """The published one, one that needs no weights, or no adversarial loss."""

    DINO = "dino"
    PATCH = "patch"
    NONE = "none"


_WIDTHS = {Kind.DINO: 128, Kind.PATCH: 32}
_LARGEST_WIDTH = 1024


@dataclass(frozen=True, slots=True)
class DiscriminatorSettings:
    """What is judged by; the table `[discriminator]` of a configuration.

    Attributes:
        kind: `dino` as published, `patch` where its weights cannot be had.
        width: Channels: of the hidden layer in each head of `dino` (128 unless given, as
            published), of the first layer of `patch` (32).
        weights: `dino` needs `dino_vitbase16_pretrain.pth` of facebookresearch/dino, or timm's
            safetensors of the same network. A relative path is one of the working directory.
    """

    kind: Kind = Kind.PATCH
    width: int | None = None
    weights: Path | None = None

    def __post_init__(self) -> None:
        if self.kind is Kind.DINO and self.weights is None:
            raise PipelineError(
                "weights: missing, dino is frozen DINO ViT-B/16; give the path of "
                "dino_vitbase16_pretrain.pth (facebookresearch/dino), or take kind = 'patch'"
            )
        if self.kind is not Kind.DINO and self.weights is not None:
            raise PipelineError(f"weights: only dino has any, kind is '{self.kind}'; leave it out")
        if self.width is None:
            return
        if self.kind is Kind.NONE:
            raise PipelineError("width: there is none to be that wide; leave it out")
        if not 1 <= self.width <= _LARGEST_WIDTH:
            raise PipelineError(f"width {self.width}: expected 1 to {_LARGEST_WIDTH} channels")

    @property
    def trained_width(self) -> int:
        """Channels, the default of the kind unless given."""
        return _WIDTHS[self.kind] if self.width is None else self.width
