"""Seeded Monte-Carlo proof of the gate's stated error rates, through the real decision rule."""

from __future__ import annotations

from dataclasses import dataclass
from math import log, log1p

import numpy as np
import pytest
from numpy.typing import NDArray

from srbench.stats import decide, look_for, one_sample, welch_difference
from srbench.stats.effects import pooled_difference

pytestmark = pytest.mark.statistical

CELLS = 4
PAIRS = 5
LOOKS = (6, 10, 16)


@dataclass(frozen=True)
class Noise:
    """Relative standard deviations of log time, as the design's `typical` profile has them."""

    process: float = 0.005
    block: float = 0.01
    iteration: float = 0.01
    correlation: float = 0.5


def _block_ratios(
    rng: np.random.Generator, runs: int, blocks: int, slowdown: float, noise: Noise | None = None
) -> NDArray[np.float64]:
    """d of [runs, blocks, cells]: median over pairs of the log ratio of two noisy arms."""
    noise = noise or Noise()
    shape = (runs, blocks, CELLS)
    step = noise.iteration * np.sqrt(1 - noise.correlation**2)
    shared = rng.normal(0, noise.block, (runs, blocks, 1))
    process = rng.normal(0, noise.process, (2, runs, blocks, 1))
    drift = rng.normal(0, noise.iteration, shape)
    ratios = np.empty((PAIRS, *shape))
    for pair in range(PAIRS):
        times = []
        for arm in range(2):
            drift = noise.correlation * drift + step * rng.standard_normal(shape)
            times.append(shared + process[arm] + drift + arm * log(slowdown))
        ratios[pair] = times[1] - times[0]
    return np.asarray(np.median(ratios, axis=0))


def _gate(
    ratios: NDArray[np.float64], promoted: NDArray[np.float64], margin: float
) -> tuple[str, int]:
    """The sequential procedure on one run: the verdict and the blocks it took."""
    for blocks in LOOKS:
        seen = ratios[:blocks]
        effects = {
            str(cell): welch_difference(seen[:, cell].tolist(), promoted[:, cell].tolist())
            for cell in range(CELLS)
        }
        effects["geomean"] = welch_difference(
            seen.mean(axis=1).tolist(), promoted.mean(axis=1).tolist()
        )
        decisions = decide(effects, dict.fromkeys(effects, log1p(margin)), look_for(blocks))
        words = {decision.verdict for decision in decisions.values()}
        if "fail" in words:
            return "fail", blocks
        if words == {"pass"}:
            return "pass", blocks
    return "inconclusive", LOOKS[-1]


def _verdicts(runs: int, slowdown: float, margin: float, seed: int) -> list[str]:
    rng = np.random.default_rng(seed)
    ours = _block_ratios(rng, runs, LOOKS[-1], slowdown)
    theirs = _block_ratios(rng, runs, LOOKS[-1], 1.0)
    return [_gate(a, b, margin)[0] for a, b in zip(ours, theirs, strict=True)]


def _rate(verdicts: list[str], word: str) -> float:
    return verdicts.count(word) / len(verdicts)


def test_false_alarms_stay_under_one_per_cent_without_any_margin() -> None:
    """A margin of zero leaves only the bound itself between noise and a false alarm."""
    assert _rate(_verdicts(1500, 1.0, 0.0, seed=1), "fail") <= 0.01


def test_untouched_runs_pass_at_the_default_margin() -> None:
    verdicts = _verdicts(1000, 1.0, 0.05, seed=2)
    assert _rate(verdicts, "fail") == 0.0
    assert _rate(verdicts, "pass") >= 0.99


def test_eight_per_cent_is_found() -> None:
    assert _rate(_verdicts(1000, 1.08, 0.05, seed=3), "fail") >= 0.95


def test_slowdown_at_the_margin_does_not_pass() -> None:
    """PASS is a proof of "less than the margin": its error rate is bounded too."""
    assert _rate(_verdicts(1000, 1.05, 0.05, seed=4), "pass") <= 0.01


def _fixed_look(slowdown: float, margin: float, noise: Noise, seed: int) -> float:
    """Rate of FAIL of the fixed look at 3 + 3 blocks."""
    rng = np.random.default_rng(seed)
    runs = 1000
    ours = _block_ratios(rng, runs, 3, slowdown, noise)
    theirs = _block_ratios(rng, runs, 3, 1.0, noise)
    failed = 0
    for a, b in zip(ours, theirs, strict=True):
        effects = {
            str(c): pooled_difference(a[:, c].tolist(), b[:, c].tolist()) for c in range(CELLS)
        }
        means = a.mean(axis=1).tolist(), b.mean(axis=1).tolist()
        effects["geomean"] = pooled_difference(*means)
        decisions = decide(effects, dict.fromkeys(effects, log1p(margin)), look_for(3))
        failed += any(decision.verdict == "fail" for decision in decisions.values())
    return failed / runs


def test_fixed_look_keeps_its_level_and_finds_thirty_per_cent() -> None:
    noisy = Noise(process=0.02, block=0.05, iteration=0.03)
    assert _fixed_look(1.0, 0.0, noisy, seed=5) <= 0.01
    assert _fixed_look(1.3, 0.05, noisy, seed=6) >= 0.95


@pytest.mark.parametrize("blocks", [5, 10, 16])
def test_interval_covers_what_it_says(blocks: int) -> None:
    rng = np.random.default_rng(7)
    ratios = _block_ratios(rng, 1500, blocks, 1.1)[:, :, 0]
    intervals = [one_sample(row.tolist()).interval() for row in ratios]
    covered = sum(low <= log(1.1) <= high for low, high in filter(None, intervals))
    assert covered / len(ratios) == pytest.approx(0.95, abs=0.015)
