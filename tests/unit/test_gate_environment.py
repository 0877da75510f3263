"""Fingerprints: what another environment leaves of a comparison, and margins under the noise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from srbench.errors import ExitCode, NotComparableError, UsageError
from srbench.gate import (
    Judgement,
    Level,
    Policy,
    Verdict,
    environment_of,
    judge,
    require_judgeable,
)
from srbench.gate.policy import parse_policy
from srbench.noise import NoiseFile
from srbench.records import Run
from tests.factories import BASELINE, CASES, OPTIMIZED, change_head, make_run

NAME = "promoted 'main'"
CARD = {
    "gpu_name": "NVIDIA A10",
    "gpu_memory_bytes": 24_000_000_000,
    "driver": "550.54.14",
    "cuda_driver": "12.4",
    "power_limit_w": 150.0,
}
NOISE = NoiseFile(
    profile="cpu",
    device_name="Some CPU",
    driver=None,
    run_id="20250101T000000Z-cpu-0000",
    measured_at="2025-01-01T00:00:00+00:00",
    pipeline=OPTIMIZED,
    precision="fp32",
    weights="mini (synthetic)",
    pairs=5,
    blocks=10,
    sd={**dict.fromkeys(CASES, 0.01), "geomean": 0.005},
)


def _card(seed: int, facts: dict[str, Any] | None = None, **spec: Any) -> Run:
    run = make_run(seed=seed, profile="a10", **spec)
    run = replace(run, cells=[replace(cell, energy_j=5.0) for cell in run.cells])
    return change_head(run, fingerprint=run.head.fingerprint | CARD | (facts or {}))


def _verdicts(judgement: Judgement, metric: str) -> set[Verdict]:
    return {check.verdict for check in judgement.checks if check.metric == metric}


@pytest.mark.parametrize(
    ("facts", "level"),
    [
        ({}, Level.EXACT),
        ({"gpu_uuid": "another", "host": "another", "commit": "another"}, Level.EXACT),
        ({"gpu_memory_bytes": 24_100_000_000}, Level.EXACT),
        ({"driver": "550.90.07"}, Level.COMPARABLE),
        ({"driver": None}, Level.COMPARABLE),
        ({"gpu_memory_bytes": None}, Level.COMPARABLE),
        ({"versions": {"torch": "2.14.2", "triton": None}}, Level.COMPARABLE),
        ({"versions": {"torch": "2.14.1+cu130", "triton": None}}, Level.COMPARABLE),
        ({"power_limit_w": 120.0}, Level.COMPARABLE),
        ({"cpu_model": "Other CPU"}, Level.COMPARABLE),
        ({"driver": "570.54.14"}, Level.RATIO_ONLY),
        ({"versions": {"torch": "2.15.1", "triton": None}}, Level.RATIO_ONLY),
        ({"gpu_name": "NVIDIA A10G"}, Level.RATIO_ONLY),
        ({"gpu_memory_bytes": 48_000_000_000}, Level.RATIO_ONLY),
    ],
)
def test_one_place_tells_the_level(facts: dict[str, Any], level: Level) -> None:
    run, promoted = _card(1, facts), _card(100)
    assert environment_of(run, promoted).level is level
    if level is Level.RATIO_ONLY:
        with pytest.raises(NotComparableError, match=f"^other .*but {NAME} has"):
            judge(run, Policy(), promoted, NAME)
    else:
        judgement = judge(run, Policy(), promoted, NAME)
        assert judgement.exit_code == ExitCode.OK
        assert bool(judgement.warnings) == (level is Level.COMPARABLE)


def test_another_patch_level_leaves_ratios_only() -> None:
    run = _card(1, {"driver": "550.90.07"}, peak_growth=1.5)
    policy = Policy(time_margin=0.1)
    judgement = judge(run, policy, _card(100), NAME)
    for metric in ("allocator_peak_bytes", "energy_j", "time"):
        assert _verdicts(judgement, metric) == {Verdict.SKIPPED}
    codes = {c.reason_code for c in judgement.checks if c.verdict is Verdict.SKIPPED}
    assert "other_environment" in codes
    assert _verdicts(judgement, "latency") == _verdicts(judgement, "launches") == {Verdict.PASS}
    slow = _card(1, {"driver": "550.90.07"}, slowdown=1.3)
    assert judge(slow, policy, _card(100), NAME).exit_code == ExitCode.REGRESSION


def test_the_machine_around_the_card_does_not_excuse_memory() -> None:
    run = _card(1, {"cpu_model": "Other CPU"}, peak_growth=1.5)
    judgement = judge(run, Policy(), _card(100), NAME)
    assert Verdict.FAIL in _verdicts(judgement, "allocator_peak_bytes")
    assert _verdicts(judgement, "energy_j") == {Verdict.SKIPPED}


def test_absolute_times_are_asked_for_by_the_policy_alone() -> None:
    run, promoted = _card(1), _card(100)
    slower = [
        replace(cell, samples=[s | {"latency_ms": 1.3 * s["latency_ms"]} for s in cell.samples])
        for cell in run.cells
    ]
    run = replace(run, cells=slower)  # both arms: the ratio hides it
    assert judge(run, Policy(), promoted, NAME).exit_code == ExitCode.OK
    judgement = judge(run, Policy(time_margin=0.1), promoted, NAME)
    assert judgement.exit_code == ExitCode.REGRESSION
    failing = [check for check in judgement.checks if check.verdict is Verdict.FAIL]
    assert {check.metric for check in failing} == {"time"}
    assert failing[0].message.startswith("time 48x32x4 +3")
    assert f"% slower than {NAME} (95 % +" in failing[0].message
    one_case = parse_policy({"cases": {CASES[1]: {"time_margin": 0.1}}}, "test")
    asked = [c.case for c in judge(run, one_case, promoted, NAME).checks if c.metric == "time"]
    assert asked == [CASES[1]]


def test_absolute_times_that_are_missing_stay_open() -> None:
    run, promoted = _card(1), _card(100)
    cells = [replace(c, samples=[]) if c.case == CASES[0] else c for c in run.cells]
    judgement = judge(replace(run, cells=cells), Policy(time_margin=0.5), promoted, NAME)
    assert Verdict.INCONCLUSIVE in _verdicts(judgement, "time")


def test_a_margin_under_the_noise_is_refused() -> None:
    run, promoted = make_run(seed=1), make_run(seed=100)
    assert judge(run, Policy(), promoted, NAME, NOISE).exit_code == ExitCode.OK
    with pytest.raises(UsageError) as error:
        judge(run, Policy(margin=0.005), promoted, NAME, NOISE)
    text = str(error.value)
    assert text.startswith("margin 0.5 % of 48x32x4 is below 1")
    assert "the smallest that 16 blocks against 6 tell" in text
    assert "noise/cpu.json (run 20250101T000000Z-cpu-0000)" in text
    assert "raise it in the policy" in text
    assert "\n" not in text


def test_a_margin_that_two_runs_cannot_tell_is_refused_where_two_runs_are_compared() -> None:
    """One run of 16 blocks shows 1.0 %; against another of 6 blocks it is 1.9 %."""
    policy, promoted = Policy(margin=0.015), make_run(seed=100)
    arm = {"pipeline": "p", "revision": None, "commit": None}
    run = change_head(make_run(seed=1), arms={BASELINE: arm, OPTIMIZED: arm})
    require_judgeable(run, policy, noise=NOISE)
    with pytest.raises(UsageError, match=r"16 blocks against 6 tell"):
        require_judgeable(run, policy, promoted, NAME, NOISE)
    require_judgeable(run, policy, make_run(seed=100, blocks=40), NAME, NOISE)
    begun = replace(promoted, finished_blocks=set(), ended=False)
    with pytest.raises(UsageError, match=r"16 blocks against 1 tell"):
        require_judgeable(run, policy, begun, NAME, NOISE)


def test_the_margin_of_one_case_and_of_the_mean_are_held_too() -> None:
    run, promoted = make_run(seed=1), make_run(seed=100)
    one = parse_policy({"cases": {CASES[2]: {"margin": 0.001}}}, "test")
    with pytest.raises(UsageError, match=r"margin 0.1 % of 96x64x2"):
        judge(run, one, promoted, NAME, NOISE)
    mean = parse_policy({"margin": 0.001, "cases": {c: {"margin": 0.05} for c in CASES}}, "test")
    with pytest.raises(UsageError, match=r"margin 0.1 % of geomean"):
        judge(run, mean, promoted, NAME, NOISE)


def test_the_margin_of_the_absolute_time_is_held_as_well() -> None:
    run, promoted = make_run(seed=1), make_run(seed=100)
    fine = judge(run, Policy(time_margin=0.2), promoted, NAME, NOISE)
    assert fine.exit_code == ExitCode.OK
    with pytest.raises(UsageError, match=r"^time_margin 0.5 % of 48x32x4 is below 1"):
        judge(run, Policy(time_margin=0.005), promoted, NAME, NOISE)


def test_margins_are_held_against_a_head_alone() -> None:
    """Before anything is measured."""
    run = replace(make_run(seed=1), cells=[], fidelity=[], finished_blocks=set(), ended=False)
    tight, promoted = Policy(margin=0.001), make_run(seed=100)
    require_judgeable(run, tight, noise=NOISE)  # asked for a speed-up, no margin
    require_judgeable(run, Policy(), promoted, NAME, NOISE)
    with pytest.raises(UsageError, match="is below"):
        require_judgeable(run, tight, promoted, NAME, NOISE)
    with pytest.raises(UsageError, match="is below"):
        require_judgeable(change_head(run, purpose="aa"), tight, noise=NOISE)


def test_what_could_never_be_judged_is_refused_from_the_head_alone() -> None:
    run = replace(make_run(seed=1), cells=[])
    for change in ({"precision": "fp16"}, {"pipelines": [BASELINE]}, {"cases": ["9x9x4"]}):
        with pytest.raises(NotComparableError):
            require_judgeable(change_head(run, **change), Policy(), make_run(seed=100), NAME)


def test_a_case_that_has_no_baseline_is_refused_from_the_head_alone() -> None:
    run, promoted = make_run(seed=1), make_run(seed=100, cases=CASES[:1])
    assert judge(run, Policy(), promoted, NAME).exit_code == ExitCode.NOT_COMPARABLE
    begun = replace(run, cells=[], fidelity=[], finished_blocks=set(), ended=False)
    with pytest.raises(NotComparableError) as error:
        require_judgeable(begun, Policy(), promoted, NAME)
    missing = [f"{case} has no baseline in {NAME}" for case in CASES[1:]]
    assert str(error.value) == "; ".join(missing)
    fewer = replace(make_run(seed=1, cases=CASES[:1]), cells=[])
    require_judgeable(fewer, Policy(), make_run(seed=100), NAME)


@pytest.mark.parametrize(("ours", "theirs"), [("", "ab"), ("ab", ""), (None, "ab")])
def test_what_is_empty_is_called_none(ours: str | None, theirs: str) -> None:
    run, promoted = (change_head(make_run(), weights={"digest": each}) for each in (ours, theirs))
    line = f"other weights: {ours or 'none'}, but {NAME} has {theirs or 'none'}"
    with pytest.raises(NotComparableError, match=line):
        judge(run, Policy(), promoted, NAME)


def test_margins_are_held_where_they_gate() -> None:
    tight = Policy(margin=0.001)
    assert judge(make_run(), tight, noise=NOISE).exit_code == ExitCode.OK  # speed-up, no margin
    arm = {"pipeline": "p", "revision": None, "commit": None}
    same = change_head(make_run(), arms={BASELINE: arm, OPTIMIZED: arm})
    with pytest.raises(UsageError, match="is below"):
        judge(same, tight, noise=NOISE)


@pytest.mark.parametrize(
    ("change", "warning"),
    [
        ({"measured_at": "2024-11-01T00:00:00+00:00"}, "is 62 days older than this run"),
        ({"measured_at": "2025-03-01T00:00:00+00:00"}, "is 57 days younger than this run"),
        ({"measured_at": "soon"}, "is of unknown age"),
        ({"driver": "550.1"}, "was measured with driver 550.1, this run with None"),
        ({"precision": "fp16"}, "was measured with precision fp16, this run with fp32"),
        ({"weights": "S3Diff"}, "was measured with weights S3Diff, this run with mini (synthetic)"),
        ({"pairs": 3}, "was measured with pairs 3, this run with 5"),
        (
            {"pipeline": "other"},
            f"was measured with pipeline other, this run with {BASELINE} and {OPTIMIZED}",
        ),
        ({"sd": {CASES[0]: 0.01}}, "has no 64x64x2, 96x64x2: the margin is not held"),
    ],
)
def test_doubtful_noise_warns(change: dict[str, Any], warning: str) -> None:
    noise = replace(NOISE, **change)
    judgement = judge(make_run(seed=1), Policy(), make_run(seed=100), NAME, noise)
    assert judgement.exit_code == ExitCode.OK
    assert len(judgement.warnings) == 1
    assert warning in judgement.warnings[0]


def test_noise_of_another_device_says_nothing() -> None:
    noise = replace(NOISE, device_name="Other CPU")
    judgement = judge(make_run(seed=1), Policy(), make_run(seed=100), NAME, noise)
    assert "noise/cpu.json is of Other CPU, this run of Some CPU" in judgement.warnings[0]
    tight = Policy(margin=0.001)
    assert judge(make_run(seed=1), tight, make_run(seed=100), NAME, noise).exit_code != 2


def test_a_gain_past_the_margin_is_marked() -> None:
    judgement = judge(make_run(seed=1, slowdown=0.7), Policy(), make_run(seed=100), NAME)
    assert {c.case for c in judgement.improvements} == {*CASES, "geomean"}
    same = judge(make_run(seed=1), Policy(), make_run(seed=100), NAME)
    assert same.improvements == []
