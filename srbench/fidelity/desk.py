"""One picture to judge and all that belongs to it, read when a metric first asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pipelines.matlab_resize import imresize
from pipelines.pictures import read_picture
from srbench.fidelity.compare import as_tensor
from srbench.fidelity.plan import Job
from srbench.upscaling_journal import file_sha256

if TYPE_CHECKING:
    import torch

Picture = NDArray[np.uint8]


class Desk:
    """The pictures of one job; a job whose values are all known reads none.

    What is done to transparent ones was said when the plan was made.
    """

    def __init__(self, job: Job) -> None:
        """Lay nothing out yet."""
        self.job = job
        self._samples: dict[int, Picture] = {}
        self._digests: dict[Path, str] = {}

    def clear(self) -> None:
        """Put the pictures away; digests stay."""
        self._samples.clear()
        for name in ("hr", "reference", "lr"):
            self.__dict__.pop(name, None)

    def sr(self, index: int) -> Picture:
        """A sample, [H, W, 3]."""
        if index not in self._samples:
            self._samples[index] = read_picture(self.job.item.samples[index])
        return self._samples[index]

    @cached_property
    def hr(self) -> Picture:
        """The reference, cut to the size of the samples."""
        height, width = self.job.size
        return read_picture(self.job.item.hr)[:height, :width]

    @cached_property
    def reference(self) -> torch.Tensor:
        """The same, [1, 3, H, W] in [0, 1]."""
        return as_tensor(self.hr)

    @cached_property
    def lr(self) -> tuple[Picture, str]:
        """The input, and where it comes from."""
        scale = self.job.scale
        if self.job.item.lr is None:
            return imresize(self.hr, Fraction(1, scale)), f"LR made as imresize(HR, 1/{scale})"
        height, width = (side // scale for side in self.job.size)
        return read_picture(self.job.item.lr)[:height, :width], "LR as given"

    def take_samples(self) -> Iterator[Picture]:
        """All samples, of which none is kept."""
        return (read_picture(path) for path in self.job.item.samples)

    def take_hr(self) -> Picture:
        """The reference, which is not kept."""
        hr = self.hr
        self.clear()
        return hr

    def digest(self, path: Path) -> str:
        """SHA-256 of one of the files."""
        if path not in self._digests:
            self._digests[path] = file_sha256(path)
        return self._digests[path]
