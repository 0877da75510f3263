"""The noise of a machine in log time: the one model behind the simulated device and the proofs.

ln(time) = block effect + process effect + AR(1) + drift + outlier. The unit of replication is the
process: its effect stays for its life, so iterations inside it do not average it away (Kalibera
and Jones, "Rigorous benchmarking in reasonable time", ISMM 2013).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from math import exp, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

CORRELATION = 0.5
"""Of neighbouring images: the machine's state outlasts one of them."""

OUTLIER_LOG = 0.1
"""Mean of an outlier's exponentially distributed excess, in log units: another program's turn."""

CASE_SHARE = 0.5
"""Share of the process variance that each case has of its own. Memory layout is common to a
process, the choice of an algorithm is made for every shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NoiseProfile:
    """How noisy a machine is; all in log units, which are fractions for small values.

    Attributes:
        block: Standard deviation of a block's effect (clock, heat), the same for both arms.
        process: Standard deviation of a process's effect, apart for each arm and block.
        iteration: Standard deviation of AR(1) noise over the images in order of execution.
        drift: Growth of all times from the run's first image to its last, linear.
        outliers: Probability that an image is an outlier; outliers are only slower.
    """

    block: float
    process: float
    iteration: float
    drift: float
    outliers: float


PROFILES = {
    "quiet": NoiseProfile(block=0.004, process=0.002, iteration=0.004, drift=0.01, outliers=0.01),
    "typical": NoiseProfile(block=0.01, process=0.005, iteration=0.01, drift=0.03, outliers=0.03),
    "noisy": NoiseProfile(block=0.04, process=0.012, iteration=0.03, drift=0.05, outliers=0.1),
}


@dataclass(frozen=True, slots=True)
class Bimodal:
    """An arm whose every process lands in one of two modes, as autotuning may choose.

    Attributes:
        gap: How much slower the second mode is, in log units.
        share: Probability of the second mode.
    """

    gap: float
    share: float = 0.5

    @property
    def mean(self) -> float:
        """What the modes add to the arm's expected log time."""
        return self.gap * self.share

    @classmethod
    def of_a_near_tie(cls, profile: NoiseProfile) -> Bimodal:
        """Modes two iteration deviations apart: autotuning confuses what its timings confuse."""
        return cls(2 * profile.iteration)


def block_log_ratios(
    rng: np.random.Generator,
    profile: NoiseProfile,
    *,
    runs: int,
    blocks: int,
    cells: int,
    pairs: int,
    slowdown: float | Floats = 1.0,
    bimodal: Bimodal | None = None,
) -> Floats:
    """Draw d of many simulated runs: the median over ABBA pairs of ln(t_candidate / t_baseline).

    Args:
        rng: Source of all randomness.
        profile: How noisy the machine is.
        runs: Simulated runs.
        blocks: Blocks of each, a fresh pair of processes every time.
        cells: Cases measured in each block, one after another.
        pairs: Timed pairs of each cell.
        slowdown: True ratio of the arms' times, of every cell or one per cell.
        bimodal: Modes of the candidate; they add `bimodal.mean` to the true mean of d.

    Returns:
        [runs, blocks, cells], log units.
    """
    images = 2 * cells * pairs
    start = np.arange(blocks) / blocks
    state = rng.normal(0, profile.iteration, (runs, blocks))
    candidate_first = rng.random((cells, runs, blocks)) < 0.5
    ratios = np.empty((cells, pairs, runs, blocks))
    for cell in range(cells):
        for pair in range(pairs):
            times = []
            for turn in range(2):
                state = _next(state, rng.standard_normal((runs, blocks)), profile)
                position = 2 * (cell * pairs + pair) + turn
                drift = profile.drift * (start + position / images / blocks)
                times.append(state + drift + _outliers(rng, (runs, blocks), profile))
            first = candidate_first[cell] ^ bool(pair % 2)
            ratios[cell, pair] = np.where(first, times[0] - times[1], times[1] - times[0])
    d = np.moveaxis(np.median(ratios, axis=1), 0, -1)
    shape = (2, runs, blocks)
    common = rng.normal(0, profile.process * sqrt(1 - CASE_SHARE), (*shape, 1))
    process = common + rng.normal(0, profile.process * sqrt(CASE_SHARE), (*shape, cells))
    if bimodal is not None:
        process[1] += bimodal.gap * (rng.random((runs, blocks, 1)) < bimodal.share)
    # The block effect is in both arms' times and leaves their ratio.
    return np.asarray(d + process[1] - process[0] + np.log(slowdown))


class ProcessNoise:
    """The noise of one worker process, image by image.

    What both arms share (block effect, AR(1) state, drift) follows from the run's seed, the block
    and the position alone, so two processes that never meet agree on it; a block that is measured
    again after a kill has the same noise.
    """

    def __init__(
        self,
        profile: NoiseProfile,
        *,
        seed: int,
        block: int,
        blocks: int,
        images: int,
        arm: str,
        bimodal: Bimodal | None = None,
    ) -> None:
        """Draw the effects that stay for the life of the process.

        Args:
            profile: How noisy the machine is.
            seed: Of the run.
            block: Index of the block.
            blocks: Blocks of the run, for the drift.
            images: Images of a block, both arms together, for the drift.
            arm: Name of the arm.
            bimodal: Modes of this arm.
        """
        self._profile = profile
        self._key = (seed, block, arm)
        self._progress = (block / blocks, 1 / (images * blocks))
        shared = _generator(seed, block)
        self._states = _generator(seed, block, "state")
        self._history = [float(self._states.normal(0, profile.iteration))]
        own = _generator(seed, block, arm)
        self._constant = float(shared.normal(0, profile.block))
        self._constant += float(own.normal(0, profile.process * sqrt(1 - CASE_SHARE)))
        if bimodal is not None and own.random() < bimodal.share:
            self._constant += bimodal.gap

    def factor(self, case: str, position: int) -> float:
        """What multiplies the true time of an image.

        Args:
            case: Case name.
            position: Index of the image in the block, from 0 over both arms in order of execution.
        """
        profile = self._profile
        while len(self._history) <= position:
            step = float(self._states.standard_normal())
            self._history.append(_next(self._history[-1], step, profile))
        start, step = self._progress
        own = _generator(*self._key, case).normal(0, profile.process * sqrt(CASE_SHARE))
        outlier = _outliers(_generator(*self._key, "outlier", position), (), profile)
        drift = profile.drift * (start + step * position)
        return exp(self._constant + self._history[position] + drift + float(own) + float(outlier))


def _next(state: Any, step: Any, profile: NoiseProfile) -> Any:
    return CORRELATION * state + profile.iteration * sqrt(1 - CORRELATION**2) * step


def _outliers(rng: np.random.Generator, shape: tuple[int, ...], profile: NoiseProfile) -> Floats:
    excess = rng.exponential(OUTLIER_LOG, shape)
    return np.asarray((rng.random(shape) < profile.outliers) * excess)


def _generator(*key: object) -> np.random.Generator:
    """A stream of its own for every key, the same in every process."""
    text = "\x1f".join(["srbench noise", *map(str, key)])
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16]))
