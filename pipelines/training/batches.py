"""Which patches and which noise an update sees: functions of the seed and its number alone.

So nothing random has to be stored to continue a run exactly.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler


@dataclass(frozen=True, slots=True)
class Share:
    """What one process does of each update.

    Attributes:
        rank: Of the process.
        processes: All of them.
        part: Samples at a time.
        parts: How often in an update.
    """

    rank: int
    processes: int
    part: int
    parts: int

    def slot(self, step: int, part: int) -> int:
        """A number that only this part of this update of this process has."""
        return (step * self.parts + part) * self.processes + self.rank

    def numbers(self, step: int, part: int) -> list[int]:
        """Samples of a part."""
        first = self.slot(step, part) * self.part
        return list(range(first, first + self.part))


class _Numbers(Sampler[list[int]]):
    """Sample numbers, part by part, of the updates of a run."""

    def __init__(self, share: Share, steps: range) -> None:
        self._share, self._steps = share, steps

    def __iter__(self) -> Iterator[list[int]]:
        for step in self._steps:
            for part in range(self._share.parts):
                yield self._share.numbers(step, part)

    def __len__(self) -> int:
        return len(self._steps) * self._share.parts


def numbered_loader(
    samples: Dataset[Any], share: Share, steps: range, *, workers: int, pinned: bool
) -> Iterator[Any]:
    """This process's parts of the updates `steps`, collated, in order.

    Args:
        samples: What is drawn from, by number.
        share: Of the process.
        steps: Updates.
        workers: Processes that prepare samples; 0 for none beside this one.
        pinned: Whether the parts are made for asynchronous copies to a GPU.
    """
    return iter(
        DataLoader(
            samples,
            batch_sampler=_Numbers(share, steps),
            num_workers=workers,
            pin_memory=pinned,
            persistent_workers=workers > 0,
            worker_init_fn=_leave_interrupts,
            # The loader's own draw; the global generator stays as it is.
            generator=torch.Generator(),
        )
    )


def _leave_interrupts(worker: int) -> None:
    """Ctrl-C goes to all processes of a terminal; the training needs its workers until it stops."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def reseed(generator: torch.Generator, seed: int, *numbers: int) -> torch.Generator:
    """Start a generator at the place of these numbers."""
    mixed = np.random.SeedSequence((seed, *numbers)).generate_state(1, np.uint64)
    return generator.manual_seed(int(mixed[0]) & (2**63 - 1))
