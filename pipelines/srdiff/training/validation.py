"""How good the networks are meanwhile: loss, PSNR, LR-PSNR and a grid of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pipelines.srdiff.checkpoint import from_tensors
from pipelines.srdiff.config import Config
from pipelines.srdiff.dataset import Sample
from pipelines.srdiff.model import SRDiff
from pipelines.srdiff.training.data import Picture, lr_psnr, psnr, to_rgb
from pipelines.srdiff.training.objective import EncoderObjective, Objective
from pipelines.srdiff.windows import Rgb
from pipelines.training.batches import reseed

DRAWS = 4
"""Timesteps and noises a picture, the same at every validation."""


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over the pictures that were super-resolved.

    Attributes:
        psnr: RGB, dB.
        lr_psnr: Against the LR picture, dB.
        grid: A row a picture: upsampled LR, the encoder's picture, in stage 2 a sample, HR.
    """

    psnr: float
    lr_psnr: float
    grid: Rgb


@torch.no_grad()
def validation_loss(
    objective: Objective, pictures: Sequence[Picture], seed: int, device: torch.device
) -> float:
    """The loss of training, mean over all pictures."""
    generator = torch.Generator(device)
    losses = []
    for number, picture in enumerate(pictures):
        drawn = _on(device, picture.sample, DRAWS)
        losses.append(objective(*drawn, reseed(generator, seed, number)))
    return float(torch.stack(losses).mean())


@torch.no_grad()
def measure_quality(
    objective: Objective,
    config: Config,
    pictures: Sequence[Picture],
    seed: int,
    device: torch.device,
) -> Quality:
    """Super-resolve the pictures with all timesteps and measure the results."""
    rows, gains, consistencies = [], [], []
    for picture in pictures:
        results = _results(objective, config, _on(device, picture.sample, 1), seed)
        rows.append([to_rgb(picture.sample.lr_up[0]), *results, picture.hr])
        gains.append(psnr(results[-1], picture.hr))
        consistencies.append(lr_psnr(results[-1], picture.lr, config.scale))
    return Quality(float(np.mean(gains)), float(np.mean(consistencies)), _grid(rows))


def _results(objective: Objective, config: Config, sample: Sample, seed: int) -> list[Rgb]:
    """The encoder's picture and, where there is one, that of the diffusion."""
    if isinstance(objective, EncoderObjective):
        return [to_rgb(objective.rrdb(sample.lr)[0])]
    model = SRDiff(from_tensors(config, objective.tensors()), sample.lr.device)
    encoded = model.encoder_picture(model.encode(sample.lr))
    drawn = model.sample(sample.lr, sample.lr_up, seed=seed)
    return [to_rgb(encoded[0]), to_rgb(drawn[0])]


def _on(device: torch.device, sample: Sample, copies: int) -> Sample:
    return Sample(*(t.to(device).expand(copies, -1, -1, -1).contiguous() for t in sample))


def _grid(rows: list[list[Rgb]]) -> Rgb:
    """Rows of equal pictures below each other; white where a row is shorter."""
    lines = [np.concatenate(row, axis=1) for row in rows]
    widest = max(line.shape[1] for line in lines)
    padded = [
        np.pad(line, ((0, 0), (0, widest - line.shape[1]), (0, 0)), constant_values=255)
        for line in lines
    ]
    return np.concatenate(padded)
