"""How good the network is meanwhile, on photographs that it is not trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from pipelines.contract import PipelineError, posterior_noise
from pipelines.degradations import degrade
from pipelines.pictures import Note, list_pictures, read_picture
from pipelines.s3diff.train.model import POSITIVE, TrainableS3Diff
from pipelines.s3diff.train.settings import Settings
from pipelines.training.loop import Look

MOST = 100
"""Pictures at most, the first by name, as published."""
PANELS = 5
"""Pictures that are shown."""

Rgb = NDArray[np.uint8]


class Validation:
    """The middles of photographs, degraded in the same way each time.

    Args:
        crops: uint8 [side, side, 3].
        settings: Of the run.
        lpips: Called on two batches in [-1, 1], gives [B]; None where it cannot be measured.
    """

    def __init__(self, crops: Sequence[Rgb], settings: Settings, lpips: nn.Module | None) -> None:
        self._crops, self._settings, self._lpips = crops, settings, lpips

    @torch.no_grad()
    def look(self, model: TrainableS3Diff) -> Look:
        """Mean L2 in [-1, 1] and LPIPS (VGG), and rows of input, prediction and ground truth."""
        device = next(model.parameters()).device
        sums: dict[str, list[torch.Tensor]] = {"l2": []}
        rows = []
        for number, crop in enumerate(self._crops):
            hr = torch.from_numpy(crop).to(device).permute(2, 0, 1)[None].float() / 255
            lr = degrade(hr, self._settings.degradation, [number])
            up = F.interpolate(lr, size=hr.shape[-2:], mode="bicubic", align_corners=False)
            x, target = (2 * up - 1).clamp(-1, 1), 2 * hr - 1
            noise = posterior_noise(number, (1, *model.latent_shape(hr.shape[-2:]))).to(device)
            prompts = torch.full((1,), POSITIVE, device=device)
            picture = model(lr, x, prompts, noise)
            sums["l2"].append(F.mse_loss(picture, target))
            if self._lpips is not None:
                sums.setdefault("lpips", []).append(self._lpips(picture, target).mean())
            if number < PANELS:
                rows.append(torch.cat([x, picture, target], dim=3)[0])
        values = {name: float(torch.stack(each).mean()) for name, each in sums.items()}
        return Look(values, _levels(torch.cat(rows, dim=1)))


def read_validation(folder: Path, side: int, note: Note) -> list[Rgb]:
    """The middles of the pictures of a folder.

    Args:
        folder: Its pictures, not those of folders in it.
        side: Of the crops; smaller pictures are left out.
        note: Told which.

    Raises:
        PipelineError: There is no picture of that size.
    """
    paths = list_pictures(folder)
    if not paths:
        raise PipelineError(f"--validation {folder}: no such folder, or no pictures in it")
    crops, small = [], 0
    for path in paths:
        pixels = read_picture(path, note)
        if min(pixels.shape[:2]) < side:
            small += 1
            continue
        top, left = ((length - side) // 2 for length in pixels.shape[:2])
        crops.append(np.ascontiguousarray(pixels[top : top + side, left : left + side]))
        if len(crops) == MOST:
            break
    if small:
        note(f"{folder}: {small} pictures are smaller than the crop of {side} and left out")
    if not crops:
        raise PipelineError(
            f"--validation {folder}: all {len(paths)} pictures are smaller than the crop of {side}"
        )
    return crops


def _levels(picture: torch.Tensor) -> Rgb:
    """[3, H, W] in [-1, 1] -> uint8 [H, W, 3], rounded."""
    levels = (picture.clamp(-1, 1) + 1).mul(127.5).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(1, 2, 0).cpu().numpy())
