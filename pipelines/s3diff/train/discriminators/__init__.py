"""Who judges whether a picture is a photograph, while S3Diff is trained."""

from __future__ import annotations

import torch

from pipelines.s3diff.train.discriminators.dino import DinoDiscriminator
from pipelines.s3diff.train.discriminators.interface import Discriminator
from pipelines.s3diff.train.discriminators.patch import PatchDiscriminator
from pipelines.s3diff.train.discriminators.settings import DiscriminatorSettings, Kind

__all__ = [
    "DinoDiscriminator",
    "Discriminator",
    "DiscriminatorSettings",
    "Kind",
    "PatchDiscriminator",
    "open_discriminator",
]


def open_discriminator(
    settings: DiscriminatorSettings, device: torch.device | str
) -> Discriminator | None:
    """The discriminator of these settings on `device`, none for `none`.

    What is trained starts from PyTorch's initial weights, drawn from the global CPU generator:
    equal on every device after an equal `torch.manual_seed`.

    Raises:
        PipelineError: The weights of `dino` cannot be used.
    """
    match settings.kind:
        case Kind.NONE:
            return None
        case Kind.PATCH:
            discriminator: Discriminator = PatchDiscriminator(settings.trained_width)
        case Kind.DINO:
            assert settings.weights is not None  # the settings refuse it
            discriminator = DinoDiscriminator.from_file(settings.weights, settings.trained_width)
    return discriminator.to(device)
