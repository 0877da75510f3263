from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from srbench.errors import ExitCode, NotComparableError
from srbench.gate import Check, Judgement, Policy, Verdict, judge
from srbench.gate.policy import parse_policy
from srbench.records import Run
from tests.factories import (
    BASELINE,
    CASES,
    OPTIMIZED,
    Noise,
    change_cell,
    change_fidelity,
    change_head,
    make_run,
)

NAME = "promoted 'main'"
NOISY = Noise(process=0.02, block=0.03, iteration=0.02)


def _against(run: Run, reference: Run | None = None, policy: Policy | None = None) -> Judgement:
    return judge(run, policy or Policy(), reference or make_run(seed=100), NAME)


def _only(judgement: Judgement, verdict: Verdict) -> list[Check]:
    return [check for check in judgement.checks if check.verdict is verdict]


def _every(run: Run, arm: str, **changes: Any) -> Run:
    cells = [replace(c, **changes) if c.pipeline == arm else c for c in run.cells]
    return replace(run, cells=cells)


def test_good_run_passes_alone() -> None:
    judgement = judge(make_run(), Policy())
    assert judgement.exit_code == ExitCode.OK
    assert {c.metric for c in judgement.checks} == {
        "outcome",
        "psnr",
        "worst_block_psnr",
        "eps_relative_l2",
        "determinism",
        "speedup",
    }
    assert "geomean" in {c.case for c in judgement.checks}


def test_slower_than_the_baseline_fails() -> None:
    judgement = judge(make_run(speedup=0.9), Policy())
    assert judgement.exit_code == ExitCode.REGRESSION
    assert "speed-up 48x32x4 0.90x (95 %" in judgement.line()
    assert "is below 1x" in judgement.line()


def test_min_speedup_is_a_claim_that_few_blocks_do_not_excuse() -> None:
    run = make_run(speedup=1.0, blocks=3, pairs=2, noise=NOISY, cases=CASES[:1])
    spent = judge(run, parse_policy({"min_speedup": 1.02}, "test"))
    check = next(c for c in spent.checks if c.metric == "speedup")
    assert check.verdict is Verdict.INCONCLUSIVE
    assert spent.exit_code == ExitCode.INCONCLUSIVE
    assert "not proven to reach 1.02x" in spent.line()


def test_one_block_has_no_verdict_on_time() -> None:
    judgement = judge(make_run(blocks=1), Policy())
    assert judgement.exit_code == ExitCode.INCONCLUSIVE
    assert "one block has no interval" in judgement.line()
    assert {c.reason_code for c in judgement.open_questions} == {"too_few_blocks"}


def test_single_arm_is_not_comparable() -> None:
    with pytest.raises(NotComparableError, match=r"single arm 's3diff-baseline'"):
        judge(make_run(arms=[BASELINE]), Policy())


@pytest.mark.parametrize(
    ("metrics", "reason"),
    [
        ({"psnr": 49.9, "worst_block_psnr": 45.0}, "psnr 48x32x4 49.9 dB, tier exact needs"),
        ({"psnr": 60.0, "worst_block_psnr": 12.5}, "worst 64x64 block 48x32x4 12.5 dB at row 64"),
        ({"psnr": float("nan"), "worst_block_psnr": 45.0}, "psnr 48x32x4 nan dB"),
        (
            {"psnr": 60.0, "worst_block_psnr": 45.0, "eps_relative_l2": 3e-5},
            "eps_relative_l2 48x32x4 3e-05, tier exact needs at most 1e-05",
        ),
    ],
)
def test_one_bad_picture_fails(metrics: dict[str, float], reason: str) -> None:
    judgement = judge(change_fidelity(make_run(), 0, metrics=metrics), Policy())
    assert judgement.exit_code == ExitCode.REGRESSION
    assert reason in judgement.line()
    assert len(_only(judgement, Verdict.FAIL)) == 1


def test_limits_follow_the_tier() -> None:
    run = make_run(psnr=42.0, worst_block=31.0)
    assert judge(run, Policy()).exit_code == ExitCode.REGRESSION
    reduced = change_head(run, tiers={BASELINE: "reduced", OPTIMIZED: "reduced"})
    assert judge(reduced, Policy()).exit_code == ExitCode.OK


def test_lpips_is_judged_where_measured_and_demanded_by_policy() -> None:
    run = change_head(make_run(), tiers={BASELINE: "reduced", OPTIMIZED: "reduced"})
    assert judge(run, Policy()).exit_code == ExitCode.OK
    skipped = _only(judge(run, Policy()), Verdict.SKIPPED)
    assert "lpips 48x32x4 was not measured: no weights" in {
        c.message.partition(": run")[0] for c in skipped
    }
    demanding = judge(run, Policy(require_lpips=True))
    assert demanding.exit_code == ExitCode.INCONCLUSIVE
    metrics = run.fidelity[0].metrics | {"lpips": 0.02}
    bad = judge(change_fidelity(run, 0, metrics=metrics), Policy())
    assert bad.exit_code == ExitCode.REGRESSION


@pytest.mark.parametrize("metric", ["psnr", "worst_block_psnr"])
def test_missing_metric_never_passes(metric: str) -> None:
    run = make_run()
    metrics = {k: v for k, v in run.fidelity[0].metrics.items() if k != metric}
    judgement = judge(change_fidelity(run, 0, metrics=metrics), Policy())
    assert judgement.exit_code == ExitCode.INCONCLUSIVE
    assert "48x32x4 was not measured" in judgement.line()


def test_missing_record_or_tier_never_passes() -> None:
    run = make_run()
    assert judge(replace(run, fidelity=[]), Policy()).exit_code == ExitCode.INCONCLUSIVE
    nameless = change_head(run, tiers={})
    assert judge(nameless, Policy()).exit_code == ExitCode.INCONCLUSIVE


def test_broken_comparison_is_an_error() -> None:
    run = change_fidelity(make_run(), 0, outcome="crash", reason="killed", metrics={})
    judgement = judge(run, Policy())
    assert judgement.exit_code == ExitCode.INFRASTRUCTURE
    assert "fidelity 48x32x4 of s3diff-optimized: crash: killed" in judgement.line()


def test_broken_cell_is_an_error_unless_something_regressed() -> None:
    run = change_cell(make_run(), 1, outcome="oom", reason="asked for 12 GiB", samples=[])
    judgement = judge(run, Policy())
    assert judgement.exit_code == ExitCode.INFRASTRUCTURE
    assert "oom 48x32x4 s3diff-optimized in 1 of 6 blocks: asked for 12 GiB" in judgement.line()
    worse = change_fidelity(run, 1, metrics={"psnr": 20.0, "worst_block_psnr": 10.0})
    both = judge(worse, Policy())
    assert both.exit_code == ExitCode.REGRESSION
    assert "oom 48x32x4" in both.line()


def test_empty_run_is_not_comparable() -> None:
    run = replace(make_run(), cells=[], fidelity=[], finished_blocks=set(), ended=False)
    with pytest.raises(NotComparableError, match="holds no measured cell: nothing to judge"):
        judge(run, Policy())
    with pytest.raises(NotComparableError, match="promoted 'main' holds no measured cell"):
        _against(make_run(), run)


def test_every_cell_broken() -> None:
    run = make_run()
    run = replace(
        run, cells=[replace(c, outcome="oom", samples=[]) for c in run.cells], fidelity=[]
    )
    assert judge(run, Policy()).exit_code == ExitCode.INFRASTRUCTURE


def test_untouched_run_passes_against_promoted() -> None:
    judgement = _against(make_run(seed=1))
    assert judgement.exit_code == ExitCode.OK, judgement.line()
    assert {"latency", "psnr_vs_promoted", "peak_tensor_bytes", "launches", "calls.unet"} <= {
        c.metric for c in judgement.checks
    }


def test_slowdown_fails_and_is_named() -> None:
    judgement = _against(make_run(seed=1, slowdown=1.3))
    assert judgement.exit_code == ExitCode.REGRESSION
    assert judgement.line().startswith("srbench gate: FAIL latency 48x32x4 +3")
    assert "% slower than promoted 'main' (95 % +" in judgement.line()
    assert "margin 5 %)" in judgement.line()
    assert "\n" not in judgement.line()


def test_slowdown_inside_the_margin_passes() -> None:
    assert _against(make_run(seed=1, slowdown=1.02)).exit_code == ExitCode.OK


def test_short_noisy_runs_still_find_a_big_slowdown() -> None:
    short = {"blocks": 3, "pairs": 2, "noise": NOISY}
    promoted = make_run(seed=100, **short)
    assert _against(make_run(seed=1, **short), promoted).exit_code == ExitCode.OK
    slow = _against(make_run(seed=2, slowdown=1.3, **short), promoted)
    assert slow.exit_code == ExitCode.REGRESSION


def test_short_run_says_what_it_excludes() -> None:
    short = {"blocks": 3, "pairs": 2}
    judgement = _against(make_run(seed=1, **short), make_run(seed=100, **short))
    check = next(c for c in judgement.checks if c.metric == "latency")
    assert "no slow-down proven, 3 blocks exclude more than" in check.message


def test_unproven_slowdown_of_a_short_run_warns() -> None:
    short = {"blocks": 2, "pairs": 2, "cases": CASES[:1], "noise": NOISY}
    judgement = _against(make_run(seed=1, slowdown=1.12, **short), make_run(seed=100, **short))
    assert judgement.exit_code == ExitCode.OK
    assert "past the margin, not proven" in judgement.warnings[0]


def test_more_blocks_may_stay_inconclusive() -> None:
    promoted = make_run(seed=100, noise=NOISY)
    run = make_run(seed=1, noise=NOISY)
    assert _against(run, promoted).exit_code == ExitCode.INCONCLUSIVE
    for word, code in (("warn", ExitCode.OK), ("fail", ExitCode.REGRESSION)):
        policy = parse_policy({"on_inconclusive": word}, "test")
        assert _against(run, promoted, policy).exit_code == code


def test_margin_of_one_case() -> None:
    policy = parse_policy({"cases": {case: {"margin": 0.5} for case in CASES}}, "test")
    failing = _only(_against(make_run(seed=1, slowdown=1.3), policy=policy), Verdict.FAIL)
    assert [check.case for check in failing] == ["geomean"]


@pytest.mark.parametrize(("growth", "code"), [(1.2, 1), (1.02, 1), (1.009, 0), (0.8, 0)])
def test_peak_tensor_bytes_have_one_per_cent_and_no_floor(growth: float, code: int) -> None:
    judgement = _against(make_run(seed=1, peak_growth=growth))
    assert judgement.exit_code == code
    if code:
        assert {c.metric for c in _only(judgement, Verdict.FAIL)} == {"peak_tensor_bytes"}
        assert "peak_tensor_bytes 48x32x4 s3diff-optimized" in judgement.line()


@pytest.mark.parametrize(("extra_mib", "code"), [(31, 0), (33, 1)])
def test_allocator_peak_has_a_floor(extra_mib: int, code: int) -> None:
    promoted = make_run(seed=100, profile="a10")
    memory = {"allocator_peak_bytes": 2**30}
    promoted = _every(promoted, OPTIMIZED, memory=memory)
    grown = {"allocator_peak_bytes": 2**30 + extra_mib * 2**20}
    run = _every(make_run(seed=1, profile="a10"), OPTIMIZED, memory=grown)
    assert _against(run, promoted).exit_code == code


@pytest.mark.parametrize("peak", [-1, None, 0])
def test_memory_not_measured_never_passes(peak: int | None) -> None:
    run = _every(make_run(seed=1), OPTIMIZED, memory={"peak_tensor_bytes": peak})
    judgement = _against(run)
    assert judgement.exit_code == ExitCode.INCONCLUSIVE
    assert "peak_tensor_bytes 48x32x4 s3diff-optimized was not measured in this run" in (
        judgement.line()
    )


def _with_work(run: Run, arm: str, **counters: Any) -> Run:
    cells = [replace(c, work=c.work | counters) if c.pipeline == arm else c for c in run.cells]
    return replace(run, cells=cells)


def test_one_more_launch_fails() -> None:
    judgement = _against(_with_work(make_run(seed=1), OPTIMIZED, launches=901))
    assert judgement.exit_code == ExitCode.REGRESSION
    assert "launches 48x32x4 s3diff-optimized 901, promoted 'main' has 900" in judgement.line()
    assert {c.reason_code for c in _only(judgement, Verdict.FAIL)} == {"more_work"}


def test_less_work_passes_for_the_candidate_not_for_the_baseline() -> None:
    assert _against(_with_work(make_run(seed=1), OPTIMIZED, launches=800)).exit_code == 0
    judgement = _against(_with_work(make_run(seed=1), BASELINE, launches=800))
    assert judgement.exit_code == ExitCode.REGRESSION
    assert {c.reason_code for c in _only(judgement, Verdict.FAIL)} == {"work_changed"}


def test_flops_count_and_missing_counter_is_open() -> None:
    more = _with_work(make_run(seed=1), OPTIMIZED, flops={"unet": 10**13})
    assert {c.metric for c in _only(_against(more), Verdict.FAIL)} == {"flops"}
    run = _every(make_run(seed=1), OPTIMIZED, work={"launches": 900})
    assert _against(run).exit_code == ExitCode.INCONCLUSIVE


@pytest.mark.parametrize(
    ("zero", "metrics"),
    [
        ({"launches": 0}, {"launches"}),
        ({"launches": -1}, {"launches"}),
        ({"launches": None}, {"launches"}),
        ({"flops": {}}, {"flops"}),
        ({"flops": {"unet": 0, "vae_decode": 0}}, {"flops"}),
        ({"calls": {}}, {"calls.unet", "calls.text_encoder"}),
        ({"calls": {"unet": 0}}, {"calls.unet", "calls.text_encoder"}),
    ],
)
def test_a_zero_where_there_must_be_work_was_not_counted(
    zero: dict[str, Any], metrics: set[str]
) -> None:
    run = _with_work(make_run(seed=1), OPTIMIZED, **zero)
    for ours, theirs in ((run, make_run(seed=100)), (make_run(seed=1), run)):
        judgement = _against(ours, theirs)
        assert judgement.exit_code == ExitCode.INCONCLUSIVE
        assert {check.metric for check in judgement.open_questions} == metrics
    judgement = _against(run, run)
    always = metrics & {"launches", "flops"}  # networks that neither side lists are not asked for
    assert {check.metric for check in judgement.open_questions} == always
    assert judgement.exit_code == (ExitCode.INCONCLUSIVE if always else ExitCode.OK)


def test_a_stage_that_is_gone_is_no_more_work() -> None:
    fewer = _with_work(make_run(seed=1), OPTIMIZED, flops={"unet": 10**6, "vae_decode": 0})
    assert _against(fewer).exit_code == ExitCode.OK


def test_a_network_that_is_not_listed_was_not_called() -> None:
    fewer = _with_work(make_run(seed=100), OPTIMIZED, calls={"unet": 2})
    assert _against(make_run(seed=1), fewer).exit_code == ExitCode.OK  # listed with 0 there
    called = _with_work(make_run(seed=1), OPTIMIZED, calls={"unet": 2, "vae_decoder": 1})
    judgement = _against(called, fewer)
    assert judgement.exit_code == ExitCode.REGRESSION
    assert "calls.vae_decoder 48x32x4 s3diff-optimized 1, promoted 'main' has 0" in judgement.line()
    assert _against(fewer, called).exit_code == ExitCode.OK


def test_work_of_another_version_is_not_held() -> None:
    run = _with_work(make_run(seed=1), OPTIMIZED, launches=9999)
    run = change_head(run, versions={BASELINE: "1", OPTIMIZED: "2"})
    judgement = _against(run)
    assert judgement.exit_code == ExitCode.OK
    assert "other_version" in {c.reason_code for c in judgement.checks}


@pytest.mark.parametrize(
    ("ours", "promoted", "code"), [(51.0, 52.0, 1), (51.6, 52.0, 0), (61, 80, 0)]
)
def test_psnr_may_not_drop(ours: float, promoted: float, code: int) -> None:
    judgement = _against(make_run(seed=1, psnr=ours), make_run(seed=100, psnr=promoted))
    assert judgement.exit_code == code


def test_planted_variant_is_matched_by_role() -> None:
    planted = "tests.fixtures:Slow"
    run = make_run(seed=1, arms=[BASELINE, planted], slowdown=1.3)
    judgement = _against(run)
    assert judgement.exit_code == ExitCode.REGRESSION
    assert {c.pipeline for c in _only(judgement, Verdict.FAIL)} == {planted}


def test_arms_are_matched_by_name_among_several() -> None:
    run = make_run(seed=1, arms=[BASELINE, OPTIMIZED, "other"])
    with pytest.raises(NotComparableError, match=r"has no arm 'other', only s3diff-optimized"):
        _against(run)
    assert _against(run, make_run(seed=100, arms=[BASELINE, "other", OPTIMIZED])).exit_code == 0


def _inputs_changed(run: Run) -> dict[str, dict[str, str]]:
    return run.head.inputs | {CASES[1]: {"sha256": "f" * 64, "source": "mine"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"profile": "a10"}, "other profile: a10, but promoted 'main' has cpu"),
        ({"precision": "fp16"}, "other precision: fp16"),
        ({"tf32": True}, "other TF32 setting: True"),
        ({"weights": {"digest": "cd" * 32}}, "other weights: cdcdcdcdcdcd…"),
        ({"noise_seed": 7}, "other noise seed: 7"),
        ({"versions": {BASELINE: "2", OPTIMIZED: "1"}}, "other version of the baseline arm: 2"),
        (
            {"options": {BASELINE: {"latent_tile": 64, "color_fix": "wavelet"}}},
            "other option 'latent_tile' of the baseline arm: 64, but promoted 'main' has 96",
        ),
        ({"inputs": _inputs_changed(make_run())}, "other input pixels for 64x64x2"),
        ({"cases": ["16x16x4"]}, "no case in common: 16x16x4"),
    ],
)
def test_the_one_thing_that_differs_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(NotComparableError) as error:
        _against(change_head(make_run(seed=1), **change))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("ours", "theirs", "named"),
    [
        ("ab" * 20, "cd" * 20, f"{'ab' * 20}, but promoted 'main' has {'cd' * 20}"),
        (None, "cd" * 20, f"none, but promoted 'main' has {'cd' * 20}"),
    ],
)
def test_a_base_revision_that_moved_is_another_baseline(
    ours: str | None, theirs: str, named: str
) -> None:
    def at(commit: str | None, seed: int) -> Run:
        arm = {"pipeline": BASELINE, "revision": "main", "commit": commit}
        return change_head(make_run(seed=seed), arms={BASELINE: arm})

    with pytest.raises(NotComparableError, match="other commit of the baseline arm: ") as error:
        _against(at(ours, 1), at(theirs, 100))
    assert named in str(error.value)
    assert _against(at(ours, 1), at(ours, 100)).exit_code == ExitCode.OK
    candidate = {OPTIMIZED: {"pipeline": OPTIMIZED, "revision": None, "commit": theirs}}
    moved = change_head(at(ours, 1), arms=at(ours, 1).head.arms | candidate)
    assert _against(moved, at(ours, 100)).exit_code == ExitCode.OK


def test_other_machine_warns() -> None:
    run = make_run(seed=1)
    run = change_head(run, fingerprint=run.head.fingerprint | {"cpu_model": "Other CPU"})
    judgement = _against(run)
    assert judgement.exit_code == ExitCode.OK
    assert judgement.warnings == ["other cpu model: Other CPU, but promoted 'main' has Some CPU"]


def test_case_without_baseline_never_passes() -> None:
    judgement = _against(make_run(seed=1), make_run(seed=100, cases=CASES[:2]))
    assert judgement.exit_code == ExitCode.NOT_COMPARABLE
    assert judgement.line() == (
        "srbench gate: NOT COMPARABLE 96x64x2 has no baseline in promoted 'main'"
    )
    slow = _against(make_run(seed=1, slowdown=1.3), make_run(seed=100, cases=CASES[:2]))
    assert slow.exit_code == ExitCode.REGRESSION
    assert "no baseline" in slow.line()


def test_fewer_cases_than_promoted_are_noted() -> None:
    judgement = _against(make_run(seed=1, cases=CASES[:2]))
    assert judgement.exit_code == ExitCode.OK
    assert "not_in_run" in {c.reason_code for c in judgement.checks}


def test_case_broken_in_the_promoted_run_never_passes() -> None:
    promoted = make_run(seed=100)
    cells = [
        replace(c, outcome="oom", samples=[]) if c.case == CASES[0] else c for c in promoted.cells
    ]
    judgement = _against(make_run(seed=1), replace(promoted, cells=cells))
    assert judgement.exit_code == ExitCode.INCONCLUSIVE
    assert "latency 48x32x4: no timed pair of both arms in promoted 'main'" in judgement.line()
