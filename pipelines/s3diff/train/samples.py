"""What a part of an update is made of: everything random in it follows from sample numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import torch
import torch.nn.functional as F

from pipelines.degradations import degrade
from pipelines.s3diff.train.model import NEGATIVE, POSITIVE
from pipelines.s3diff.train.settings import Settings
from pipelines.training.batches import reseed


class Purpose(IntEnum):
    """What random numbers are for; each use has a stream of its own."""

    CHOICES = 0
    RECONSTRUCTION_NOISE = 1
    ADVERSARIAL_NOISE = 2
    GENERATOR_AUGMENTATION = 3
    REAL_AUGMENTATION = 4
    FAKE_AUGMENTATION = 5


@dataclass(frozen=True, slots=True)
class Part:
    """Samples that are computed at a time, on the device, float32.

    Attributes:
        numbers: Of the samples.
        hr: Crops, [B, 3, H, W] in [-1, 1].
        lr: Degraded, [B, 3, h, w] in [0, 1]: what the degradation network sees.
        x: Input of the network, [B, 3, H, W] in [-1, 1].
        target: What the reconstruction should be: `hr`, and `x` for negative samples.
        prompts: [B], `POSITIVE` or `NEGATIVE`.
    """

    numbers: tuple[int, ...]
    hr: torch.Tensor
    lr: torch.Tensor
    x: torch.Tensor
    target: torch.Tensor
    prompts: torch.Tensor


def make_part(
    hr: torch.Tensor, numbers: Sequence[int], seeds: Sequence[int], settings: Settings
) -> Part:
    """Degrade crops and draw their roles (spec section 6, "Online negatives").

    Args:
        hr: [B, 3, H, W] float32 in [0, 1] on the device.
        numbers: Of the samples.
        seeds: Of their degradations.
        settings: Of the run.
    """
    lr = degrade(hr, settings.degradation, seeds)
    up = F.interpolate(lr, size=hr.shape[-2:], mode="bicubic", align_corners=False)
    hr = 2 * hr - 1
    roles = draw_roles(numbers, settings)
    negative, kept = (torch.tensor(role, device=hr.device) for role in zip(*roles, strict=True))
    x = torch.where(kept[:, None, None, None], hr, (2 * up - 1).clamp(-1, 1))
    return Part(
        numbers=tuple(numbers),
        hr=hr,
        lr=lr,
        x=x,
        target=torch.where(negative[:, None, None, None], x, hr),
        prompts=torch.where(negative, NEGATIVE, POSITIVE),
    )


def draw_roles(numbers: Sequence[int], settings: Settings) -> list[tuple[bool, bool]]:
    """For each sample, whether it is a negative one and whether its input is the crop itself."""
    generator = torch.Generator()
    roles = []
    for number in numbers:
        reseed(generator, settings.run.seed, number, Purpose.CHOICES)
        negative, kept = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        roles.append((negative < settings.samples.negative, kept < settings.samples.keep_hr))
    return roles


def draw_noise(
    part: Part, shape: tuple[int, ...], seed: int, purpose: Purpose, generator: torch.Generator
) -> torch.Tensor:
    """Standard normal noise [B, *shape] of the posterior, a stream for each sample.

    Args:
        part: Of whose samples.
        shape: Of one latent.
        seed: Of the run.
        purpose: Of the noise.
        generator: On the device of the part; is seeded here.
    """
    noise = torch.empty(len(part.numbers), *shape, device=part.x.device)
    for one, number in zip(noise, part.numbers, strict=True):
        one.normal_(generator=reseed(generator, seed, number, purpose))
    return noise
