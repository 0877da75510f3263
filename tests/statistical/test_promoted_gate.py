"""The same proof for a run held against a promoted one: two samples of blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from math import log1p

import numpy as np
import pytest
from numpy.typing import NDArray

from srbench.simulation.noise import PROFILES
from srbench.stats import (
    Decision,
    Effect,
    decide,
    is_decided,
    look_for,
    pooled_difference,
    welch_difference,
)
from srbench.stats.sequential import LOOKS
from tests.statistical.conftest import Note
from tests.statistical.procedure import draw, word

pytestmark = pytest.mark.statistical

Floats = NDArray[np.float64]
Difference = Callable[[Sequence[float], Sequence[float]], Effect]


def _decisions(ours: Floats, theirs: Floats, how: Difference, margin: float) -> list[Decision]:
    """One look, at all blocks of two runs [blocks, cells]."""
    columns = [(ours[:, cell], theirs[:, cell]) for cell in range(ours.shape[1])]
    columns.append((ours.mean(axis=1), theirs.mean(axis=1)))
    effects = {str(i): how(a.tolist(), b.tolist()) for i, (a, b) in enumerate(columns)}
    margins = dict.fromkeys(effects, log1p(margin))
    return list(decide(effects, margins, look_for(len(ours))).values())


def _sequential(ours: Floats, theirs: Floats, margin: float) -> str:
    decisions: list[Decision] = []
    for blocks, _ in LOOKS:
        decisions = _decisions(ours[:blocks], theirs, welch_difference, margin)
        if is_decided(decision.verdict for decision in decisions):
            break
    return word(decisions)


def _rates(
    profile: str, *, slowdown: float, margin: float, seed: int, runs: int
) -> dict[str, float]:
    ours = draw(profile, seed=seed, runs=runs, slowdown=slowdown)
    theirs = draw(profile, seed=seed + 1000, runs=runs, blocks=10)
    words = Counter(_sequential(a, b, margin) for a, b in zip(ours, theirs, strict=True))
    return {each: words[each] / runs for each in ("pass", "fail", "inconclusive")}


@pytest.mark.parametrize("margin", [0.0, 0.05])
@pytest.mark.parametrize("profile", PROFILES)
def test_false_alarms_are_one_per_cent_at_most(profile: str, margin: float, note: Note) -> None:
    rates = _rates(profile, slowdown=1.0, margin=margin, seed=41, runs=4000)
    note(rates)
    assert rates["fail"] <= 0.01


def test_margin_plus_two_points_is_found(
    note: Note,
) -> None:
    rates = _rates("typical", slowdown=1.07, margin=0.05, seed=42, runs=2000)
    note(rates)
    assert rates["fail"] >= 0.99
    assert rates["pass"] == 0.0


def test_untouched_runs_pass_and_a_slowdown_of_the_margin_does_not() -> None:
    assert _rates("typical", slowdown=1.0, margin=0.05, seed=43, runs=1000)["pass"] >= 0.99
    assert _rates("typical", slowdown=1.05, margin=0.05, seed=44, runs=1000)["pass"] <= 0.01


def _fixed_look(profile: str, slowdown: float, margin: float, seed: int) -> float:
    """Rate of FAIL of the fixed look at 3 + 3 blocks."""
    ours = draw(profile, seed=seed, runs=2000, blocks=3, slowdown=slowdown)
    theirs = draw(profile, seed=seed + 1000, runs=2000, blocks=3)
    return float(
        np.mean(
            [
                word(_decisions(a, b, pooled_difference, margin)) == "fail"
                for a, b in zip(ours, theirs, strict=True)
            ]
        )
    )


def test_fixed_look_keeps_its_level_and_finds_thirty_per_cent() -> None:
    assert _fixed_look("noisy", 1.0, 0.0, seed=45) <= 0.01
    assert _fixed_look("noisy", 1.3, 0.05, seed=46) >= 0.95
