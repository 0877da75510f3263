from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from srbench.errors import ExitCode
from srbench.gate import Check, Judgement, Policy, Verdict, judge
from srbench.gate.policy import parse_policy
from srbench.records import Run
from tests.factories import BASELINE, CASES, OPTIMIZED, change_head, make_run

NAME = "promoted 'main'"


def _with_energy(run: Run, growth: float = 1.0, *, gap: float = 0.0) -> Run:
    """Twelve joules for the baseline, six for the candidate, in the first block."""
    cells = []
    for cell in run.cells:
        if cell.block == 0:
            gross = 12.0 if cell.pipeline == BASELINE else 6.0 * growth
            energy: dict[str, float | None] = {
                "gross_j": gross,
                "net_j": 0.8 * gross,
                "polled_j": gross * (1 + gap),
                "idle_w": 30.0,
                "window_s": 10.2,
                "images": 40,
            }
            cells.append(replace(cell, energy_j=gross, energy=energy))
        else:
            cells.append(cell)
    return replace(run, cells=cells)


def _card(seed: int, **energy: Any) -> Run:
    return _with_energy(make_run(seed=seed, profile="a10"), **energy)


def _energy(judgement: Judgement) -> list[Check]:
    return [check for check in judgement.checks if check.metric == "energy_j"]


@pytest.mark.parametrize(("growth", "code"), [(1.04, 0), (1.06, 1), (0.7, 0)])
def test_five_per_cent_more_energy_fails(growth: float, code: int) -> None:
    judgement = judge(_card(1, growth=growth), Policy(), _card(100), NAME)
    assert judgement.exit_code == code
    if code:
        assert (
            "energy 48x32x4 s3diff-optimized +6.0 % an image against promoted 'main', one window"
        ) in judgement.line()
        failing = [check for check in judgement.checks if check.verdict is Verdict.FAIL]
        assert {check.reason_code for check in failing} == {"more_energy"}
        assert {check.pipeline for check in failing} == {OPTIMIZED}


def test_the_margin_is_the_policy_s_also_for_one_case() -> None:
    policy = parse_policy({"cases": {case: {"energy_margin": 0.2} for case in CASES[:2]}}, "test")
    judgement = judge(_card(1, growth=1.1), policy, _card(100), NAME)
    failing = [check for check in judgement.checks if check.verdict is Verdict.FAIL]
    assert [check.case for check in failing] == [CASES[2]]


def test_arms_of_one_pipeline_are_held_against_each_other() -> None:
    run = _card(1, growth=2.0 * 1.08)
    arm = {"pipeline": "p", "revision": None, "commit": None}
    run = change_head(run, arms={BASELINE: arm, OPTIMIZED: arm})
    energy = _energy(judge(run, Policy()))
    assert {check.verdict for check in energy} == {Verdict.FAIL}
    assert energy[0].value == pytest.approx(0.08)
    assert f"against {BASELINE}" in energy[0].message


def test_on_a_cpu_the_check_is_skipped_with_its_reason() -> None:
    judgement = judge(make_run(seed=1), Policy(), make_run(seed=100), NAME)
    (check,) = _energy(judgement)
    assert check.verdict is Verdict.SKIPPED
    assert check.message == "energy was measured on neither side: no energy counter on cpu"


def test_energy_that_one_of_the_runs_has_is_missed_in_the_other() -> None:
    judgement = judge(make_run(seed=1, profile="a10"), Policy(), _card(100), NAME)
    assert judgement.exit_code == ExitCode.INCONCLUSIVE
    assert "energy 48x32x4 s3diff-optimized was not measured in this run" in judgement.line()
    newer = judge(_card(1), Policy(), make_run(seed=100, profile="a10"), NAME)
    assert newer.exit_code == ExitCode.INCONCLUSIVE
    assert f"energy 48x32x4 s3diff-optimized was not measured in {NAME}" in newer.line()
    run = _card(1)
    cells = [replace(c, energy_j=None) if c.case == CASES[0] else c for c in run.cells]
    one = judge(replace(run, cells=cells), Policy(), _card(100), NAME)
    assert {c.case for c in _energy(one) if c.verdict is Verdict.INCONCLUSIVE} == {CASES[0]}


@pytest.mark.parametrize("joules", [0.0, float("nan")])
def test_no_card_draws_nothing(joules: float) -> None:
    run = _card(1)
    run = replace(run, cells=[replace(cell, energy_j=joules) for cell in run.cells])
    assert judge(run, Policy(), _card(100), NAME).exit_code == ExitCode.INCONCLUSIVE


def test_counter_and_polled_power_must_agree() -> None:
    assert judge(_card(1, gap=0.04), Policy()).warnings == []
    warnings = judge(_card(1, gap=-0.09), Policy()).warnings
    assert len(warnings) == 2
    assert warnings[0].startswith(f"energy of {BASELINE}: counter and polled power differ by 9 %")
