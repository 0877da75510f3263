"""One pipeline in both arms of a run: a regression gate without any promoted run."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from srbench.errors import ExitCode
from srbench.gate import Check, Judgement, Policy, Verdict, judge
from srbench.records import Run
from tests.factories import CASES, QUIET, Noise, change_head, make_run

BASE, HEAD = "s3diff-optimized@main", "s3diff-optimized"
ARMS = {
    BASE: {"pipeline": "s3diff-optimized", "revision": "main", "commit": "ab" * 20},
    HEAD: {"pipeline": "s3diff-optimized", "revision": None, "commit": None},
}


def _revisions(**spec: Any) -> Run:
    """Base and head of one pipeline, doing the same work in the same memory."""
    spec = {"arms": [BASE, HEAD], "speedup": 1.0, "peak_growth": 1 / 0.8, **spec}
    run = make_run(**spec)
    work = run.cells[1].work
    cells = [replace(c, work=work | {"flops": c.work["flops"]}) for c in run.cells]
    return change_head(replace(run, cells=cells), arms=ARMS)


def _verdicts(judgement: Judgement, metric: str) -> set[Verdict]:
    return {check.verdict for check in judgement.checks if check.metric == metric}


def _failing(judgement: Judgement) -> list[Check]:
    return [check for check in judgement.checks if check.verdict is Verdict.FAIL]


def test_equal_revisions_pass_without_being_any_faster() -> None:
    judgement = judge(_revisions(), Policy())
    assert judgement.exit_code == ExitCode.OK, judgement.line()
    asked = {check.metric for check in judgement.checks}
    assert {"latency", "peak_tensor_bytes", "launches", "energy_j", "psnr", "determinism"} <= asked
    assert "speedup" not in asked
    assert {c.case for c in judgement.checks if c.metric == "latency"} == {*CASES, "geomean"}


@pytest.mark.parametrize(("slowdown", "code"), [(1.03, 0), (1.08, 1), (0.8, 0)])
def test_a_slower_head_fails_past_the_margin(slowdown: float, code: int) -> None:
    judgement = judge(_revisions(slowdown=slowdown, noise=QUIET), Policy())
    assert judgement.exit_code == code
    if code:
        assert {check.metric for check in _failing(judgement)} == {"latency"}
        assert f"latency 48x32x4 +8 % slower than {BASE} (95 %" in judgement.line()
        assert {check.reason_code for check in _failing(judgement)} == {"slower"}


def test_pairing_cancels_what_both_arms_share() -> None:
    """Block effects of 20 % would bury 8 % in a comparison of two runs."""
    shared = Noise(process=0.002, block=0.2, iteration=0.002)
    judgement = judge(_revisions(slowdown=1.08, noise=shared), Policy())
    assert judgement.exit_code == ExitCode.REGRESSION


def test_revisions_and_aa_arms_are_told_from_different_pipelines() -> None:
    equal = _revisions(speedup=0.97, noise=QUIET)
    assert _verdicts(judge(equal, Policy()), "latency") == {Verdict.PASS}
    different = change_head(equal, arms=ARMS | {HEAD: ARMS[HEAD] | {"pipeline": "other"}})
    assert Verdict.FAIL in _verdicts(judge(different, Policy()), "speedup")
    unnamed = change_head(equal, arms={})
    assert Verdict.FAIL in _verdicts(judge(unnamed, Policy()), "speedup")
    twice = change_head(unnamed, purpose="aa")
    assert _verdicts(judge(twice, Policy()), "latency") == {Verdict.PASS}


def test_memory_and_work_are_held_against_the_base_arm() -> None:
    grown = judge(_revisions(peak_growth=1.05 / 0.8), Policy())
    assert {check.metric for check in _failing(grown)} == {"peak_tensor_bytes"}
    assert f"48x32x4 {HEAD}" in grown.line()
    assert f"against {BASE}" in grown.line()
    run = _revisions()
    cells = [
        replace(c, work=c.work | {"launches": 901}) if c.pipeline == HEAD else c for c in run.cells
    ]
    more = judge(replace(run, cells=cells), Policy())
    assert f"launches 48x32x4 {HEAD} 901, {BASE} has 900" in more.line()


def test_unproven_and_unmeasured_stay_open() -> None:
    noisy = Noise(process=0.03, block=0.03, iteration=0.03)
    assert judge(_revisions(noise=noisy), Policy()).exit_code == ExitCode.INCONCLUSIVE
    assert judge(_revisions(blocks=1), Policy()).exit_code == ExitCode.INCONCLUSIVE
    run = _revisions()
    cells = [replace(c, samples=[]) if c.case == CASES[0] else c for c in run.cells]
    judgement = judge(replace(run, cells=cells), Policy())
    assert judgement.exit_code == ExitCode.INCONCLUSIVE
    assert "latency 48x32x4: no timed pair of both arms" in judgement.line()


def test_with_a_promoted_run_the_ratios_are_compared_instead() -> None:
    judgement = judge(_revisions(seed=1), Policy(), _revisions(seed=100), "promoted 'main'")
    assert judgement.exit_code == ExitCode.OK, judgement.line()
    latencies = [check for check in judgement.checks if check.metric == "latency"]
    assert all("than promoted 'main'" in check.message for check in latencies)
