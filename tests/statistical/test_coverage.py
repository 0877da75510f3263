"""Does the 95 % interval of the speed-up cover the true one as often as it says?"""

from __future__ import annotations

from math import exp

import numpy as np
import pytest

from srbench.simulation.noise import PROFILES, Bimodal
from srbench.stats import speedup
from tests.statistical.conftest import Note
from tests.statistical.procedure import draw

pytestmark = pytest.mark.statistical

RUNS = 10_000
RUNS_WITH_MODES = 60_000
"""Near the edge of the allowed range, so more runs: the standard error is 0.09 points."""
SLOWDOWN = 1.1


def _coverage(
    profile: str, blocks: int, seed: int, runs: int, bimodal: Bimodal | None = None
) -> float:
    d = draw(
        profile, seed=seed, runs=runs, blocks=blocks, cells=1, slowdown=SLOWDOWN, bimodal=bimodal
    )
    truth = 1 / SLOWDOWN * exp(-bimodal.mean if bimodal is not None else 0.0)
    covered = 0
    for values in d[:, :, 0].tolist():
        estimate = speedup(values)
        assert estimate is not None
        assert estimate.low is not None
        assert estimate.high is not None
        covered += estimate.low <= truth <= estimate.high
    return covered / runs


@pytest.mark.parametrize("blocks", [5, 10, 16])
@pytest.mark.parametrize("profile", PROFILES)
def test_interval_covers_what_it_says(profile: str, blocks: int, note: Note) -> None:
    coverage = _coverage(profile, blocks, seed=51, runs=RUNS)
    note({"covered": coverage})
    assert 0.94 <= coverage <= 0.96


@pytest.mark.parametrize("blocks", [5, 10, 16])
@pytest.mark.parametrize("profile", PROFILES)
def test_interval_covers_with_a_bimodal_arm(profile: str, blocks: int, note: Note) -> None:
    """Modes as far apart as autotuning can confuse: two deviations of its timings."""
    modes = Bimodal.of_a_near_tie(PROFILES[profile])
    coverage = _coverage(profile, blocks, seed=52, runs=RUNS_WITH_MODES, bimodal=modes)
    note({"covered": coverage})
    assert 0.94 <= coverage <= 0.96


@pytest.mark.parametrize(("blocks", "least"), [(5, 0.925), (10, 0.935), (16, 0.935)])
def test_far_modes_cost_little(blocks: int, least: float, note: Note) -> None:
    """Modes of 6 % on a quiet machine, a limit that no estimator can pass at 5 blocks.

    With probability 2 / 2^5 = 6 % all five processes land in one mode; such data know nothing of
    the other, and an interval as wide as their own spread must miss the mean of both.
    """
    coverage = _coverage("quiet", blocks, seed=53, runs=RUNS, bimodal=Bimodal(0.06))
    note({"covered": coverage})
    assert least <= coverage <= 0.96


def test_geometric_mean_covers_too() -> None:
    """Cells of one process are correlated; block means carry that, the cells' intervals do not."""
    d = draw("typical", seed=54, runs=RUNS, blocks=6).mean(axis=2)
    estimates = [speedup(values) for values in d.tolist()]
    covered = [
        each.low <= 1.0 <= each.high for each in estimates if each and each.low and each.high
    ]
    assert len(covered) == RUNS
    assert 0.94 <= np.mean(covered) <= 0.96
