"""Stage `estimator`: the degradation network learns to tell blur and noise.

The published one (MM-RealSR) was trained to order pictures by their degradation. This one learns
the strength itself, of blur and noise that are added to sharp pictures, which orders them too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from pipelines.degradations.jpeg import jpeg
from pipelines.degradations.levels import blur_and_noise
from pipelines.s3diff.architecture import Architecture
from pipelines.s3diff.degradation import DegradationEstimator
from pipelines.s3diff.mini.autoencoder import to_network
from pipelines.s3diff.mini.crops import Crops
from pipelines.s3diff.mini.stage import Objective, Settings
from pipelines.training.batches import reseed
from pipelines.training.loop import Look

BLUR_SIGMA_PX = 3.0
NOISE_SIGMA_LEVELS = 30.0
"""What the score 1 stands for, in pixels and levels (of 255) of the LR picture."""
JPEG_SHARE, JPEG_QUALITY = 0.5, (60.0, 95.0)
"""Compression is no part of the scores and must not be taken for noise."""
SCALE = 4


def build_estimator(architecture: Architecture, seed: int) -> DegradationEstimator:
    """The network with PyTorch's seeded initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return DegradationEstimator(
            architecture.degradation_width,
            architecture.degradation_wide,
            architecture.degradation_hidden,
        )


class EstimatorObjective(Objective):
    """Distance of the scores from the strengths that were added.

    Args:
        estimator: With initial weights.
        crops: Of photographs.
        settings: Of the stage.
        held_out: uint8 pictures [H, W, 3].
    """

    columns = ("l1",)

    def __init__(
        self,
        estimator: DegradationEstimator,
        crops: Crops,
        settings: Settings,
        held_out: Sequence[NDArray[np.uint8]],
    ) -> None:
        super().__init__(crops, settings, held_out)
        self.estimator = estimator

    def losses(self, step: int) -> dict[str, torch.Tensor]:
        """See `Objective`."""
        settings = self.settings
        device = next(self.parameters()).device
        hr = self._crops.batch(step * settings.batch, settings.batch).to(device)
        generator = reseed(torch.Generator(), settings.seed, step)
        wanted = torch.rand(settings.batch, 2, generator=generator)
        # Clean and sharp pictures are common, and a uniform draw has none.
        wanted = wanted * (torch.rand(settings.batch, 2, generator=generator) < 0.8)
        lr = sometimes_compressed(degraded(hr, wanted.to(device), generator), generator)
        scores = self.estimator(lr)
        return {"l1": F.l1_loss(scores, wanted.to(device))}

    def look(self) -> Look:
        """Share of neighbouring strengths on held-out pictures that are ordered rightly."""
        device = next(self.parameters()).device
        right = {"blur_ordered": 0.0, "noise_ordered": 0.0}
        ladder = torch.linspace(0, 1, 6, device=device)
        for pixels in self._held_out:
            hr = to_network(pixels).to(device) / 2 + 0.5
            for index, name in enumerate(right):
                wanted = torch.zeros(len(ladder), 2, device=device)
                wanted[:, index] = ladder
                generator = torch.Generator().manual_seed(0)
                lr = degraded(hr.expand(len(ladder), -1, -1, -1), wanted, generator)
                steps = self.estimator(lr)[:, index].diff()
                right[name] += float((steps > 0).float().mean()) / len(self._held_out)
        return Look(right)


def degraded(hr: torch.Tensor, wanted: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """LR pictures of known blur and noise.

    Args:
        hr: [B, 3, H, W] in [0, 1].
        wanted: [B, 2] in [0, 1], scores of blur and noise.
        generator: On the CPU.
    """
    lr = F.interpolate(hr, scale_factor=1 / SCALE, mode="area")
    blur, noise = wanted[:, 0] * BLUR_SIGMA_PX, wanted[:, 1] * NOISE_SIGMA_LEVELS
    on_device = torch.Generator(hr.device).manual_seed(
        int(torch.randint(2**62, (), generator=generator))
    )
    return blur_and_noise(lr, blur, noise, on_device)


def sometimes_compressed(lr: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """[B, 3, h, w] in [0, 1], some of them through JPEG."""
    low, high = JPEG_QUALITY
    quality = low + (high - low) * torch.rand(len(lr), generator=generator)
    compressed = torch.rand(len(lr), generator=generator) < JPEG_SHARE
    pictures = jpeg(lr, quality.to(lr.device))
    return torch.where(compressed.to(lr.device).view(-1, 1, 1, 1), pictures, lr)
