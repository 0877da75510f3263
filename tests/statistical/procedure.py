"""The gate's sequential rule over many simulated runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import log1p
from typing import Any

import numpy as np
from numpy.typing import NDArray

from srbench.aa.replay import sequential_decisions
from srbench.simulation.noise import PROFILES, block_log_ratios
from srbench.stats import Decision

CELLS = 4
PAIRS = 5
BLOCKS = 16
"""Of the last look; earlier ones see the first 6 and 10."""


def draw(
    profile: str, *, seed: int, runs: int, blocks: int = BLOCKS, **changes: Any
) -> NDArray[np.float64]:
    """d of [runs, blocks, cells]."""
    rng = np.random.default_rng(seed)
    sizes: dict[str, Any] = {"runs": runs, "blocks": blocks, "cells": CELLS, "pairs": PAIRS}
    return block_log_ratios(rng, PROFILES[profile], **(sizes | changes))


def word(decisions: Iterable[Decision]) -> str:
    """One verdict of a family: a proven slow-down outranks an open question."""
    words = {decision.verdict for decision in decisions}
    return next(each for each in ("fail", "inconclusive", "pass") if each in words)


def paired_rates(ratios: NDArray[np.float64], margin: float) -> dict[str, float]:
    """Verdict -> share of runs, candidate against the baseline of the same run."""
    words: Counter[str] = Counter()
    for run in ratios:
        cells = {
            f"cell {cell}": dict(enumerate(column.tolist())) for cell, column in enumerate(run.T)
        }
        words[word(sequential_decisions(cells, log1p(margin)).values())] += 1
    return {each: words[each] / len(ratios) for each in ("pass", "fail", "inconclusive")}
