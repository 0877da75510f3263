from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats as reference

from srbench.errors import SrbenchError
from srbench.stats import (
    Effect,
    decide,
    geometric_mean_blocks,
    holm,
    look_against,
    look_for,
    one_sample,
    paired_log_ratio,
    pooled_difference,
    speedup,
    summarize,
    welch_difference,
)
from srbench.stats.runs import block_log_ratios, latencies_ms, measured_ratios
from tests.factories import BASELINE, CASES, OPTIMIZED, change_cell, make_run

A = [0.11, 0.07, 0.13, 0.10, 0.09, 0.12]
B = [0.01, -0.04, 0.05, 0.02]


def test_summary_equals_numpy() -> None:
    values = [3.0, 1.0, 4.0, 1.5, 9.0, 2.6]
    summary = summarize(values)
    assert summary is not None
    assert summary.median == np.median(values)
    assert summary.mad == np.median(np.abs(np.array(values) - np.median(values)))
    assert summary.p90 == pytest.approx(np.quantile(values, 0.9), rel=1e-14)
    assert summary.n == 6
    assert summarize([]) is None


def test_pairs_are_joined_by_index_not_by_order() -> None:
    baseline = {0: 100.0, 1: 200.0, 2: 400.0}
    candidate = {2: 200.0, 0: 50.0, 7: 1.0, 1: 100.0}
    assert paired_log_ratio(baseline, candidate) == pytest.approx(np.log(0.5))
    assert paired_log_ratio(baseline, {9: 1.0}) is None


def test_one_sample_interval_equals_scipy() -> None:
    effect = one_sample(A)
    low, high = reference.t.interval(0.95, len(A) - 1, np.mean(A), reference.sem(A))
    assert effect.interval() == pytest.approx((low, high), rel=1e-12)
    expected = reference.ttest_1samp(A, 0.0, alternative="greater").pvalue
    assert effect.p_greater() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("difference", "equal_variances"), [(welch_difference, False), (pooled_difference, True)]
)
def test_differences_equal_scipy(
    difference: Callable[[list[float], list[float]], Effect], equal_variances: bool
) -> None:
    effect = difference(A, B)
    test = reference.ttest_ind(A, B, equal_var=equal_variances, alternative="greater")
    assert effect.p_greater() == pytest.approx(test.pvalue, rel=1e-9)
    assert effect.dof == pytest.approx(test.df, rel=1e-12)
    both = reference.ttest_ind(A, B, equal_var=equal_variances).confidence_interval(0.95)
    assert effect.interval() == pytest.approx((both.low, both.high), rel=1e-9)
    assert effect.lower(0.025) == pytest.approx(both.low, rel=1e-9)
    assert effect.upper(0.025) == pytest.approx(both.high, rel=1e-9)


@pytest.mark.parametrize(
    "effect",
    [one_sample([0.3]), welch_difference([0.3], B), pooled_difference(A, [0.1])],
)
def test_one_block_has_no_interval(effect: Effect) -> None:
    assert effect.interval() is None
    assert effect.lower(0.01) is None
    assert effect.p_greater() is None


def test_no_spread_gives_a_point_not_a_crash() -> None:
    effect = welch_difference([0.2] * 3, [0.1] * 3)
    assert effect.interval() == pytest.approx((0.1, 0.1))
    assert effect.p_greater() == 0.0
    assert one_sample([0.0, 0.0]).p_greater() == 1.0


def test_speedup_is_exp_of_minus_d() -> None:
    result = speedup([-0.70, -0.69, -0.68])
    assert result is not None
    assert result.value == pytest.approx(np.exp(0.69))
    low, high = one_sample([-0.70, -0.69, -0.68]).interval()  # type: ignore[misc]
    assert (result.low, result.high) == pytest.approx((np.exp(-high), np.exp(-low)))
    single = speedup([-0.69])
    assert single is not None
    assert (single.low, single.high, single.blocks) == (None, None, 1)
    assert speedup([]) is None


def test_geometric_mean_is_taken_inside_blocks() -> None:
    cells = [{0: -0.6, 1: -0.8, 2: -0.7}, {0: -0.2, 1: -0.4}]
    assert geometric_mean_blocks(cells) == pytest.approx([-0.4, -0.6])
    assert geometric_mean_blocks([]) == []


def test_holm_by_hand() -> None:
    adjusted = holm({"a": 0.010, "b": 0.004, "c": 0.030, "d": 0.5})
    assert adjusted == pytest.approx({"b": 0.016, "a": 0.030, "c": 0.060, "d": 0.5})
    assert holm({"a": 0.02, "b": 0.021}) == pytest.approx({"a": 0.04, "b": 0.04})


@pytest.mark.parametrize(
    ("blocks", "alpha", "fixed"),
    [
        (1, 0.01, True),
        (5, 0.01, True),
        (6, 0.004, False),
        (9, 0.004, False),
        (10, 0.003, False),
        (40, 0.003, False),
    ],
)
def test_looks(blocks: int, alpha: float, fixed: bool) -> None:
    look = look_for(blocks)
    assert (look.alpha, look.fixed) == (alpha, fixed)
    assert look.least == max(least for least in (1, 6, 10, 16) if least <= blocks)


@pytest.mark.parametrize(
    ("blocks", "reference", "number", "alpha"),
    [(16, 10, 3, 0.003), (6, 40, 1, 0.004), (16, 5, 0, 0.01), (5, 16, 0, 0.01)],
)
def test_the_look_is_the_run_s_unless_the_reference_is_short(
    blocks: int, reference: int, number: int, alpha: float
) -> None:
    look = look_against(blocks, reference)
    assert (look.number, look.alpha, look.fixed) == (number, alpha, number == 0)


def test_error_budget_is_one_per_cent() -> None:
    assert sum(look_for(blocks).alpha for blocks in (6, 10, 16)) == pytest.approx(0.01)


def _verdict(estimate: float, error: float, blocks: int, margin: float = 0.05) -> str:
    effect = Effect(estimate, error, blocks - 1, blocks)
    return decide({"x": effect}, {"x": margin}, look_for(blocks))["x"].verdict


def test_rule_has_three_words() -> None:
    assert _verdict(0.10, 0.005, 10) == "fail"
    assert _verdict(0.00, 0.005, 10) == "pass"
    assert _verdict(0.03, 0.02, 10) == "inconclusive"
    # Proven slower than zero, but inside the margin and not proven to stay there.
    assert _verdict(0.045, 0.005, 10) == "inconclusive"
    # Past the margin, and noise could be all of it.
    assert _verdict(0.06, 0.05, 10) == "inconclusive"


def test_fixed_look_fails_only_what_is_proven() -> None:
    assert _verdict(0.26, 0.02, 3) == "fail"
    assert _verdict(0.06, 0.05, 3) == "pass"
    assert _verdict(0.0, 0.05, 3) == "pass"


def test_one_block_decides_nothing() -> None:
    decision = decide({"x": one_sample([0.5])}, {"x": 0.05}, look_for(1))["x"]
    assert (decision.verdict, decision.p_adjusted) == ("inconclusive", None)


@pytest.mark.parametrize(
    "effect",
    [
        Effect(float("-inf"), 0.01, 9, 10),
        Effect(-0.1, float("nan"), 9, 10),
        Effect(-0.1, float("inf"), 9, 10),
        Effect(float("nan"), 0.01, 9, 10),
        Effect(float("inf"), 0.0, 9, 10),
    ],
)
@pytest.mark.parametrize("blocks", [3, 10])
def test_what_is_no_number_decides_nothing_and_hides_nothing(effect: Effect, blocks: int) -> None:
    family = {"broken": effect, "slow": Effect(0.3, 0.01, 9, 10)}
    decisions = decide(family, dict.fromkeys(family, 0.05), look_for(blocks))
    assert decisions["broken"].verdict == "inconclusive"
    assert decisions["slow"].verdict == "fail"


@pytest.mark.parametrize("estimate", [-0.5, 0.0, 0.5])
def test_an_effect_with_fewer_blocks_than_its_look_stays_open(estimate: float) -> None:
    for blocks, finished, verdict in ((9, 9, True), (9, 10, False), (5, 6, False), (5, 5, True)):
        effect = Effect(estimate, 0.001, blocks - 1, blocks)
        decision = decide({"x": effect}, {"x": 0.05}, look_for(finished))["x"]
        assert (decision.verdict != "inconclusive") is verdict


def test_holm_guards_the_family() -> None:
    look = look_for(10)
    noise = {f"n{i}": Effect(0.0, 0.02, 9, 10) for i in range(3)}
    single = Effect(0.1, 0.1 / 4.0, 9, 10)
    assert decide({"x": single}, {"x": 0.05}, look)["x"].verdict == "fail"
    family = {"x": single} | noise
    verdicts = decide(family, dict.fromkeys(family, 0.05), look)
    assert verdicts["x"].verdict == "inconclusive"


def test_run_is_reduced_to_blocks() -> None:
    run = make_run(blocks=3, pairs=2)
    case = CASES[0]
    by_hand = []
    for block in range(3):
        times = {
            cell.pipeline: [s["latency_ms"] for s in cell.samples]
            for cell in run.cells
            if (cell.block, cell.case) == (block, case)
        }
        by_hand.append(np.median(np.log(np.divide(times[OPTIMIZED], times[BASELINE]))))
    assert list(block_log_ratios(run, case, OPTIMIZED).values()) == pytest.approx(by_hand)
    assert len(latencies_ms(run, case, BASELINE)) == 6
    assert len(geometric_mean_blocks(list(measured_ratios(run, OPTIMIZED, CASES).values()))) == 3


def test_block_with_a_broken_arm_does_not_count() -> None:
    run = change_cell(make_run(blocks=3), 0, outcome="oom", samples=[])
    assert list(block_log_ratios(run, CASES[0], OPTIMIZED)) == [1, 2]
    assert len(geometric_mean_blocks(list(measured_ratios(run, OPTIMIZED, CASES).values()))) == 2


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_latency_is_named(bad: float) -> None:
    run = make_run(blocks=1, pairs=1)
    run = change_cell(run, 1, samples=[run.cells[1].samples[0] | {"latency_ms": bad}])
    with pytest.raises(SrbenchError, match="48x32x4 s3diff-optimized in block 0"):
        block_log_ratios(run, CASES[0], OPTIMIZED)
