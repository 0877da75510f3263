"""What every discriminator promises, and what they share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from pipelines.contract import PipelineError
from pipelines.s3diff.train.augment import diff_augment


class Discriminator(nn.Module):
    """Judges pictures at several levels; high logits say "photograph".

    Each call of `forward` in training mode advances the power iteration of the spectral norms
    (Miyato et al., ICLR 2018), in buffers that belong to the trained state.

    Args:
        trained: The part that learns; all other parameters are frozen.
    """

    def __init__(self, trained: nn.Module) -> None:
        super().__init__()
        self.trained = trained

    def forward(self, image: torch.Tensor, generator: torch.Generator) -> list[torch.Tensor]:
        """Augment pictures, real or generated, and judge them; a gradient reaches them.

        Args:
            image: [B, 3, H, W] in [-1, 1].
            generator: On the same device; what the augmentation is drawn from.

        Returns:
            Logits by level, [B, h, w] for a map of places or [B, 1] for the whole picture.
        """
        return self.judge(diff_augment(image, generator))

    def judge(self, image: torch.Tensor) -> list[torch.Tensor]:
        """The logits of `forward` without its augmentation."""
        raise NotImplementedError

    def run_trained(self, *features: torch.Tensor) -> list[torch.Tensor]:
        """Logits of the trained part, in float32: autocast would blur its spectral norms."""
        with torch.autocast(features[0].device.type, enabled=False):
            logits: list[torch.Tensor] = self.trained(*(feature.float() for feature in features))
        return logits

    def trained_parameters(self) -> list[nn.Parameter]:
        """What the discriminator's optimizer updates."""
        return list(self.trained.parameters())

    def trained_state_dict(self) -> dict[str, torch.Tensor]:
        """Trained parameters and the vectors of the power iteration, by name; not copied."""
        return dict(self.trained.state_dict())

    def load_trained_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Inverse of `trained_state_dict`, in place.

        Raises:
            PipelineError: Of another discriminator or width; nothing is loaded.
        """
        if problems := differences(state, self.trained.state_dict()):
            raise PipelineError(
                f"state of the discriminator: {problems[0]} ({len(problems)} tensors differ); "
                "it is of another discriminator or width"
            )
        self.trained.load_state_dict(state)


def differences(
    found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> list[str]:
    """What is missing, unknown or of another shape, a phrase each."""
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} is unknown" for name in found if name not in expected]
    return problems + [
        f"{name} is {list(found[name].shape)} where {list(wanted.shape)} is expected"
        for name, wanted in expected.items()
        if name in found and found[name].shape != wanted.shape
    ]
