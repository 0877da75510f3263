"""Random crops of a few photographs that are kept in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pipelines.contract import PipelineError
from pipelines.pictures import list_pictures, read_picture


@dataclass(frozen=True, slots=True)
class Crops:
    """Crops by number: each is a function of the seed and its number alone.

    Attributes:
        pictures: uint8 [H, W, 3].
        names: Of their files.
        side: Of a crop, pixels.
        seed: Of the draws.
    """

    pictures: list[NDArray[np.uint8]]
    names: list[str]
    side: int
    seed: int

    @classmethod
    def read(cls, folder: Path, side: int, seed: int) -> Crops:
        """All pictures of a folder.

        Raises:
            PipelineError: None is there, or one is too small.
        """
        paths = list_pictures(folder)
        if not paths:
            raise PipelineError(f"{folder}: no pictures")
        pictures = [read_picture(path) for path in paths]
        for path, picture in zip(paths, pictures, strict=True):
            if min(picture.shape[:2]) < side:
                raise PipelineError(f"{path}: smaller than a crop of {side} pixels")
        return cls(pictures, [path.name for path in paths], side, seed)

    def batch(self, first: int, count: int) -> torch.Tensor:
        """Crops `first` and on, float32 [count, 3, side, side] in [0, 1]."""
        crops = np.stack([self._crop(number) for number in range(first, first + count)])
        return torch.from_numpy(crops).permute(0, 3, 1, 2).float() / 255

    def name(self, number: int) -> str:
        """File that a crop is from."""
        return self.names[self._draws(number).integers(len(self.pictures))]

    def _draws(self, number: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, number))

    def _crop(self, number: int) -> NDArray[np.uint8]:
        """Pictures are drawn alike, whatever their size; a crop is mirrored or turned."""
        draws = self._draws(number)
        picture = self.pictures[draws.integers(len(self.pictures))]
        top, left = (draws.integers(length - self.side + 1) for length in picture.shape[:2])
        crop = picture[top : top + self.side, left : left + self.side]
        if draws.random() < 0.5:
            crop = crop[:, ::-1]
        return np.rot90(crop, int(draws.integers(4)))
