from __future__ import annotations

from itertools import product
from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as reference

from srbench.stats import (
    Effect,
    decide,
    find_segments,
    is_decided,
    look_for,
    minimum_detectable_difference,
    minimum_detectable_effect,
    one_sample,
    required_blocks,
    sign_flip_p,
    simultaneous_intervals,
)

EIGHT = [0.011, 0.007, -0.003, 0.010, 0.009, 0.012, -0.001, 0.004]


@pytest.mark.parametrize(("alternative", "two"), [("two-sided", True), ("greater", False)])
@pytest.mark.parametrize("values", [EIGHT, [*EIGHT, 0.002], [0.0] * 8, [-each for each in EIGHT]])
def test_sign_flip_equals_counting_all_patterns(
    values: list[float], alternative: str, two: bool
) -> None:
    sums = [np.dot(signs, values) for signs in product((1, -1), repeat=len(values))]
    seen = sum(values)
    extreme = [abs(s) >= abs(seen) - 1e-12 if two else s >= seen - 1e-12 for s in sums]
    assert sign_flip_p(values, alternative) == pytest.approx(np.mean(extreme))  # type: ignore[arg-type]


def test_sign_flip_of_one_sign_is_the_smallest_p() -> None:
    values = [0.01, 0.02, 0.03, 0.015, 0.012, 0.017, 0.013, 0.011, 0.02, 0.014]
    assert sign_flip_p(values, "greater") == 1 / 2**10
    assert sign_flip_p(values) == 2 / 2**10


@pytest.mark.parametrize("count", [1, 7, 33])
def test_sign_flip_says_when_it_cannot(count: int) -> None:
    assert sign_flip_p([0.01] * count) is None


@pytest.mark.parametrize("blocks", [2, 3, 6, 10, 16, 100])
def test_minimum_detectable_effect_has_its_power(blocks: int) -> None:
    """By the noncentral t of scipy, written out."""
    effect = minimum_detectable_effect(0.013, blocks, 0.003, power=0.9)
    threshold = reference.t.isf(0.003, blocks - 1)
    power = reference.nct.sf(threshold, blocks - 1, effect / 0.013 * sqrt(blocks))
    assert power == pytest.approx(0.9, abs=1e-5)
    assert minimum_detectable_effect(0.0, blocks, 0.003) == 0.0


@pytest.mark.parametrize(("blocks", "other"), [(16, 6), (6, 16), (10, 10), (3, 2), (2, 1)])
def test_minimum_detectable_difference_has_its_power(blocks: int, other: int) -> None:
    """By the noncentral t of the two-sample test."""
    effect = minimum_detectable_difference(0.013, blocks, other, 0.003, power=0.9)
    dof = blocks + other - 2
    error = 0.013 * sqrt(1 / blocks + 1 / other)
    power = reference.nct.sf(reference.t.isf(0.003, dof), dof, effect / error)
    assert power == pytest.approx(0.9, abs=1e-5)


def test_a_difference_needs_two_runs() -> None:
    with pytest.raises(ValueError, match="reference without blocks"):
        minimum_detectable_difference(0.01, 6, 0, 0.004)


def test_minimum_detectable_effect_of_the_typical_profile() -> None:
    """Ten blocks whose d scatters by 0.94 % show 1.1 % with 80 % power at one-sided 1 %."""
    assert minimum_detectable_effect(0.0094, 10, 0.01) == pytest.approx(0.011, abs=2e-4)


@pytest.mark.parametrize("wanted", [0.005, 0.01, 0.03, 0.2])
def test_required_blocks_are_the_fewest(wanted: float) -> None:
    blocks = required_blocks(wanted, 0.01, 0.004)
    assert blocks is not None
    assert minimum_detectable_effect(0.01, blocks, 0.004) <= wanted
    if blocks > 2:
        assert minimum_detectable_effect(0.01, blocks - 1, 0.004) > wanted


def test_too_small_an_effect_has_no_number_of_blocks() -> None:
    assert required_blocks(1e-6, 0.01, 0.004) is None
    assert required_blocks(0.01, 0.0, 0.004) == 2


@pytest.mark.parametrize(("sd", "blocks"), [(-0.1, 6), (float("nan"), 6), (0.01, 1)])
def test_power_refuses_what_has_no_answer(sd: float, blocks: int) -> None:
    with pytest.raises(ValueError, match=r"sd|blocks"):
        minimum_detectable_effect(sd, blocks, 0.004)


def test_simultaneous_intervals_share_the_error() -> None:
    effects = {"a": one_sample(EIGHT), "b": Effect(0.0, 0.01, 9, 10), "c": one_sample([0.1])}
    intervals = simultaneous_intervals(effects, 0.97)
    assert intervals["a"] == pytest.approx(one_sample(EIGHT).interval(0.99))
    assert intervals["b"] == pytest.approx(effects["b"].interval(0.99))
    assert intervals["c"] is None
    assert simultaneous_intervals({}) == {}


def test_improvement_is_the_mirrored_failure() -> None:
    look = look_for(10)
    family = {
        "faster": Effect(-0.10, 0.005, 9, 10),
        "slower": Effect(0.10, 0.005, 9, 10),
        "a little faster": Effect(-0.03, 0.005, 9, 10),
        "faster within noise": Effect(-0.10, 0.09, 9, 10),
        "one block": one_sample([-0.5]),
    }
    decisions = decide(family, dict.fromkeys(family, 0.05), look)
    assert [key for key, decision in decisions.items() if decision.improved] == ["faster"]
    mirrored = {key: effect.mirrored() for key, effect in family.items()}
    failed = decide(mirrored, dict.fromkeys(family, 0.05), look)
    assert [key for key, d in failed.items() if d.verdict == "fail"] == ["faster"]
    assert decisions["faster"].verdict == "pass"
    assert decisions["slower"].verdict == "fail"


def _history(*parts: tuple[int, float], seed: int = 0, noise: float = 0.01) -> list[float]:
    rng = np.random.default_rng(seed)
    return [float(level + noise * rng.standard_normal()) for n, level in parts for _ in range(n)]


def _bounds(values: list[float]) -> list[tuple[int, int]]:
    return [(segment.start, segment.end) for segment in find_segments(values)]


def test_steps_are_found_where_they_are() -> None:
    values = _history((12, 0.70), (9, 0.60), (15, 0.75))
    segments = find_segments(values)
    assert _bounds(values) == [(0, 12), (12, 21), (21, 36)]
    assert [segment.level for segment in segments] == pytest.approx([0.7, 0.6, 0.75], abs=0.01)
    assert segments[1].level == np.median(values[12:21])


@pytest.mark.parametrize("place", [0, 1, 14, 28, 29])
def test_an_outlier_is_no_step(place: int) -> None:
    values = _history((30, 0.70))
    values[place] += 5.0
    assert _bounds(values) == [(0, 30)]


def test_a_step_beside_an_outlier_keeps_its_place() -> None:
    values = _history((15, 0.70), (15, 0.60))
    values[10] = 3.0
    assert _bounds(values) == [(0, 15), (15, 30)]


def test_a_history_without_noise() -> None:
    assert _bounds([1.0] * 20) == [(0, 20)]
    assert _bounds([1.0] * 10 + [2.0] * 10) == [(0, 10), (10, 20)]
    assert _bounds([1.0] * 10 + [2.0] + [1.0] * 9) == [(0, 20)]


@pytest.mark.parametrize("values", [[], [1.0], [1.0, 9.0], [1.0, 1.0, 9.0, 9.0, 9.0]])
def test_a_short_history_is_one_segment_at_most(values: list[float]) -> None:
    assert _bounds(values) == ([(0, len(values))] if values else [])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=6, max_size=14))
def test_fit_is_the_best_of_all(values: list[float]) -> None:
    """The dynamic programme against all segmentations with parts of 3 runs and more."""
    from srbench.stats.steps import PRICE, SHORTEST, _noise

    price = PRICE * _noise(values) * float(np.log(len(values)))

    def cost(bounds: list[tuple[int, int]]) -> float:
        parts = [np.array(values[start:end]) for start, end in bounds]
        deviations = sum(float(np.abs(part - np.median(part)).sum()) for part in parts)
        return deviations + price * (len(parts) - 1)

    def splits(start: int) -> list[list[tuple[int, int]]]:
        rest = [[(start, len(values))]] if len(values) - start >= SHORTEST else []
        for end in range(start + SHORTEST, len(values) - SHORTEST + 1):
            rest += [[(start, end), *more] for more in splits(end)]
        return rest

    best = min(map(cost, splits(0)))
    assert cost(_bounds(values)) == pytest.approx(best, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("verdicts", "ends"),
    [
        (["pass", "pass"], True),
        (["pass", "inconclusive"], False),
        (["fail", "inconclusive"], True),
        (["fail", "pass"], True),
        (["inconclusive"], False),
        ([], False),
    ],
)
def test_the_stop_rule(verdicts: list[str], *, ends: bool) -> None:
    assert is_decided(iter(verdicts)) is ends
