"""Training samples: patches whose choice depends on the seed and the sample's number alone."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pipelines.contract import PipelineError
from pipelines.matlab_resize import upsample_lr
from pipelines.pictures import Note
from pipelines.srdiff.pairs import Pair, iterate_pairs, load_pair, some_names
from pipelines.srdiff.windows import Rgb, Window, hr_multiple

_CACHE_BYTES = 8 * 2**30

logger = logging.getLogger(__name__)


class Sample(NamedTuple):
    """One training sample, or a collated batch of them: float32, [3, h, w] or [N, 3, h, w].

    A named tuple, because torch's loader collates those.

    Attributes:
        hr: Target, in [-1, 1].
        lr: Input of the encoder, in [-1, 1], sides smaller by the scale.
        lr_up: Upsampled `lr` of the sides of `hr`, about [-1, 1].
    """

    hr: torch.Tensor
    lr: torch.Tensor
    lr_up: torch.Tensor


class PatchDataset(Dataset[Sample]):
    """Random patches of pairs; sample `k` is the same in every process and after every resume.

    All pictures are decoded once here, so that a damaged one is found before the training starts;
    as many as fit into `cache_bytes` stay in memory, the rest are read again when drawn.

    Args:
        pairs: Of `open_pairs`.
        patch: Side of the HR patch, a multiple of `hr_multiple(scale)`.
        scale: Upscaling factor.
        divisor: Of the upsampled LR, see `upsample_lr`.
        augment: Flip along both axes and transpose, each with probability 1/2; off in the published
            runs.
        seed: Of all choices.
        note: Told which pictures are skipped: damaged, or smaller than the patch.
        cache_bytes: Memory for decoded pictures.

    Raises:
        PipelineError: The patch does not fit the network, or no picture can be used.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        patch: int,
        scale: int,
        *,
        divisor: int = 256,
        augment: bool,
        seed: int,
        note: Note = logger.warning,
        cache_bytes: int = _CACHE_BYTES,
    ) -> None:
        if patch < 2 * hr_multiple(scale) or patch % hr_multiple(scale):
            raise PipelineError(
                f"patch {patch}: must be a multiple of {hr_multiple(scale)} and at least "
                f"{2 * hr_multiple(scale)} for x{scale}"
            )
        self._patch, self._scale, self._divisor = patch, scale, divisor
        self._augment, self._seed = augment, seed
        self._pairs: list[Pair] = []
        self._cached: list[tuple[Rgb, Rgb] | None] = []
        self._fill(pairs, note, cache_bytes)

    def __len__(self) -> int:
        """Pictures that patches are drawn from; sample numbers may go on beyond."""
        return len(self._pairs)

    def __getitem__(self, number: int) -> Sample:
        return self.sample(number)

    def sample(self, number: int) -> Sample:
        """Sample `number` (not negative) of the endless sequence of this seed."""
        choose = np.random.default_rng((self._seed, number))
        hr, lr = self._pixels(int(choose.integers(len(self._pairs))))
        places = [(side - self._patch) // self._scale + 1 for side in hr.shape[:2]]
        top, left = (self._scale * int(choose.integers(count)) for count in places)
        window = Window(top, left, self._patch, self._patch)
        high, low = window.of(hr), window.reduced(self._scale).of(lr)
        if self._augment:
            turns = [bool(bit) for bit in choose.integers(2, size=3)]
            high, low = _turned(high, turns), _turned(low, turns)
        up = upsample_lr(low, self._scale, divisor=self._divisor)
        return Sample(_normalised(high), _normalised(low), _planes(up))

    def _fill(self, pairs: Sequence[Pair], note: Note, cache_bytes: int) -> None:
        small = []
        for pair, hr, lr in iterate_pairs(pairs, note):
            if min(hr.shape[:2]) < self._patch:
                small.append(pair.name)
                continue
            cache_bytes -= hr.nbytes + lr.nbytes
            self._pairs.append(pair)
            self._cached.append((hr, lr) if cache_bytes >= 0 else None)
        if small:
            note(
                f"warning: {len(small)} of {len(pairs)} pictures are smaller than the patch of "
                f"{self._patch} and skipped: {some_names(small)}"
            )
        if not self._pairs:
            raise PipelineError(f"no picture is as large as the patch of {self._patch}")

    def _pixels(self, index: int) -> tuple[Rgb, Rgb]:
        return self._cached[index] or load_pair(self._pairs[index])


def _turned(picture: Rgb, turns: list[bool]) -> Rgb:
    upside_down, mirrored, transposed = turns
    picture = picture[::-1] if upside_down else picture
    picture = picture[:, ::-1] if mirrored else picture
    return picture.swapaxes(0, 1) if transposed else picture


def _normalised(picture: Rgb) -> torch.Tensor:
    return _planes(2 * (picture / np.float64(255)) - 1)


def _planes(picture: NDArray[np.float64]) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32))
