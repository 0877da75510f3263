"""How often step detection sees a step in nothing but noise, and how often it sees a real one."""

from __future__ import annotations

import numpy as np
import pytest

from srbench.stats import find_segments

pytestmark = pytest.mark.statistical


def _histories(count: int, length: int, seed: int) -> list[list[float]]:
    noise = np.random.default_rng(seed).standard_normal((count, length))
    return [[float(value) for value in row] for row in noise]


@pytest.mark.parametrize(("length", "most"), [(6, 0.04), (10, 0.06), (20, 0.04), (60, 0.02)])
def test_white_noise_has_few_steps(length: int, most: float) -> None:
    found = [len(find_segments(values)) > 1 for values in _histories(1000, length, seed=61)]
    assert np.mean(found) <= most


def test_a_step_of_three_deviations_is_found_once() -> None:
    """Ten runs before, ten after."""
    histories = [
        [value + 3.0 * (place >= 10) for place, value in enumerate(values)]
        for values in _histories(500, 20, seed=62)
    ]
    found = [find_segments(values) for values in histories]
    assert np.mean([len(segments) == 2 for segments in found]) >= 0.9
    ends = [abs(segments[0].end - 10) for segments in found if len(segments) == 2]
    assert np.mean([off <= 1 for off in ends]) >= 0.9
