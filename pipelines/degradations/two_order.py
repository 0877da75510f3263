"""The degradation itself: high-resolution pictures and seeds in, low-resolution pictures out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F

from pipelines.degradations.filtering import filter_pictures
from pipelines.degradations.jpeg import jpeg
from pipelines.degradations.kernels import Kernel, delta, padded
from pipelines.degradations.noise import add_noise
from pipelines.degradations.plans import Plan, plan
from pipelines.degradations.settings import Settings


@torch.no_grad()
def degrade(hr: torch.Tensor, settings: Settings, seeds: Sequence[int]) -> torch.Tensor:
    """Degrade a batch (Real-ESRGAN, section 3; the published `degradation_proc`).

    Picture i depends on `seeds[i]` alone: pictures are worked on one by one, so that a batch of
    any size and order gives the same bits on the same device. Nothing is rounded to 8 bits.

    Args:
        hr: [B, 3, H, W] float32 in [0, 1], RGB, on any device; sides at least `settings.scale`.
        settings: Probabilities and ranges.
        seeds: One for each picture, not negative.

    Returns:
        [B, 3, H // scale, W // scale] float32 in [0, 1] on the same device.

    Raises:
        ValueError: Shapes or the number of seeds do not fit.
    """
    return degrade_as_planned(hr, [plan(seed, settings) for seed in seeds], settings)


@torch.no_grad()
def degrade_as_planned(hr: torch.Tensor, plans: Sequence[Plan], settings: Settings) -> torch.Tensor:
    """`degrade` with what was drawn already."""
    if hr.ndim != 4 or hr.shape[1] != 3 or hr.dtype != torch.float32:
        raise ValueError(f"{hr.dtype} of shape {tuple(hr.shape)}, expected float32 [B, 3, H, W]")
    if len(plans) != len(hr):
        raise ValueError(f"{len(plans)} seeds for {len(hr)} pictures")
    size = hr.shape[2] // settings.scale, hr.shape[3] // settings.scale
    if min(size) < 1:
        raise ValueError(f"sides {tuple(hr.shape[2:])} are smaller than the scale")
    generator = torch.Generator(hr.device)
    kernels = _kernels(plans, settings.kernel_side, hr.device)
    lr = torch.empty((len(hr), 3, *size), device=hr.device)
    for index, its_plan in enumerate(plans):
        generator.manual_seed(its_plan.noise_seed)
        picture = hr[index : index + 1].contiguous()
        lr[index] = _degraded(picture, its_plan, kernels[index], size, generator)[0]
    return lr


def _degraded(
    picture: torch.Tensor,
    its_plan: Plan,
    kernels: torch.Tensor,
    size: tuple[int, int],
    generator: torch.Generator,
) -> torch.Tensor:
    """[1, 3, H, W], with kernels [3, 1, k, k] of both orders and the final sinc -> [1, 3, h, w]."""
    first, second = its_plan.first, its_plan.second
    if first.kernel is not None:
        picture = filter_pictures(picture, kernels[0])
    picture = F.interpolate(
        picture, scale_factor=_kept(picture, first.resize.factor), mode=first.resize.filter
    )
    picture = add_noise(picture, first.noise, generator)
    picture = _compressed(picture, first.jpeg_quality)

    if second.kernel is not None:
        picture = filter_pictures(picture, kernels[1])
    reduced = tuple(max(1, int(length * second.resize.factor)) for length in size)
    picture = F.interpolate(picture, size=reduced, mode=second.resize.filter)
    picture = add_noise(picture, second.noise, generator)
    if not its_plan.jpeg_last:
        picture = _compressed(picture, second.jpeg_quality)
    picture = F.interpolate(picture, size=size, mode=its_plan.final_filter)
    if its_plan.final_sinc is not None:
        picture = filter_pictures(picture, kernels[2])
    picture = picture.clamp(0, 1)
    return _compressed(picture, second.jpeg_quality) if its_plan.jpeg_last else picture


def _compressed(picture: torch.Tensor, quality: float) -> torch.Tensor:
    """JPEG of values clamped to [0, 1], as published."""
    return jpeg(picture.clamp(0, 1), torch.full((1,), quality, device=picture.device))


def _kept(picture: torch.Tensor, factor: float) -> float:
    """The factor, or the least that leaves something of a tiny picture."""
    return max(factor, 2 / min(picture.shape[-2:]))


def _kernels(plans: Sequence[Plan], side: int, device: torch.device) -> torch.Tensor:
    """[B, 3, 1, side, side] in one transfer that the host does not wait for."""
    weights = np.empty((len(plans), 3, 1, side, side), np.float32)
    for index, its_plan in enumerate(plans):
        used = its_plan.first.kernel, its_plan.second.kernel, its_plan.final_sinc
        weights[index, :, 0] = [_weights(kernel, side) for kernel in used]
    kernels = torch.from_numpy(weights)
    if device.type == "cuda":
        kernels = kernels.pin_memory()
    return kernels.to(device, non_blocking=True)


def _weights(kernel: Kernel | None, side: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return delta(side) if kernel is None else padded(kernel.weights(), side)
