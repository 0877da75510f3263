"""The stop rule of sequential runs, as the gate's checks see it."""

from __future__ import annotations

from math import log1p

import pytest

from srbench.aa.replay import sequential_decisions
from srbench.gate import Check, Policy, judge, time_is_decided
from srbench.gate.checks import Question, Verdict
from srbench.stats.runs import measured_ratios
from tests.factories import BASELINE, CASES, OPTIMIZED, Noise, change_head, make_run

PASS, FAIL, OPEN = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE


def _check(metric: str, verdict: Verdict) -> Check:
    return Question(CASES[0], OPTIMIZED, metric).answer(verdict, "", "")


@pytest.mark.parametrize(
    ("answers", "ends"),
    [
        ({"latency": PASS, "time": PASS}, True),
        ({"latency": PASS, "time": OPEN}, False),
        ({"latency": FAIL, "time": OPEN}, True),
        ({"latency": PASS, "time": Verdict.SKIPPED}, True),
        ({"time": Verdict.SKIPPED}, False),
        ({"speedup": PASS, "psnr": OPEN, "psnr_vs_fp32": FAIL}, True),
        ({"speedup": OPEN, "psnr": FAIL}, False),
        ({"psnr": PASS, "peak_tensor_bytes": FAIL}, False),
        ({}, False),
    ],
)
def test_only_the_questions_of_time_decide(answers: dict[str, Verdict], *, ends: bool) -> None:
    assert time_is_decided([_check(*answer) for answer in answers.items()]) is ends


@pytest.mark.parametrize(
    ("slowdown", "spread", "ends"),
    [(1.0, 0.002, True), (1.2, 0.01, True), (1.0, 0.05, False)],
)
def test_the_gate_and_the_replay_end_at_the_same_look(
    slowdown: float, spread: float, *, ends: bool
) -> None:
    noise = Noise(process=spread, block=0.0, iteration=0.002)
    run = make_run(blocks=6, speedup=1.0, slowdown=slowdown, noise=noise)
    arm = {"pipeline": "p", "revision": None, "commit": None}
    run = change_head(run, arms={BASELINE: arm, OPTIMIZED: arm})
    checks = judge(run, Policy()).checks
    decisions = sequential_decisions(measured_ratios(run, OPTIMIZED, CASES), log1p(0.05))
    timed = {check.case: str(check.verdict) for check in checks if check.metric == "latency"}
    assert timed == {key: decision.verdict for key, decision in decisions.items()}
    assert time_is_decided(checks) is ends
