"""The baseline's own precision, and the same picture every time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from srbench.errors import ExitCode
from srbench.gate import Check, Judgement, Policy, Verdict, judge
from srbench.gate.policy import parse_policy
from srbench.records import CellRecord, FidelityRecord, Run
from tests.factories import BASELINE, CASES, OPTIMIZED, change_fidelity, change_head, make_run


def _half_precision(**metrics: float) -> Run:
    """A run in fp16 whose case 0 has the given metrics between the arms besides PSNR."""
    run = make_run(profile="a10", psnr=45.0, worst_block=35.0)
    return change_fidelity(run, 0, metrics=run.fidelity[0].metrics | metrics)


def _without_fp32(run: Run) -> Run:
    """The run as if nothing had been computed in float32 for case 0."""
    kept = [r for r in run.fidelity if (r.case, r.reference) != (CASES[0], "fp32")]
    return replace(run, fidelity=kept)


def _role(run: Run, role: str, arm: str, **changes: Any) -> Run:
    record = FidelityRecord(case=CASES[0], pipeline=arm, reference=role, **changes)
    return replace(run, fidelity=[*run.fidelity, record])


def _from_fp32(run: Run, ours: dict[str, float], theirs: dict[str, float]) -> Run:
    run = _role(run, "fp32", OPTIMIZED, metrics=ours)
    return _role(run, "fp32", BASELINE, metrics=theirs)


def _found(judgement: Judgement, metric: str) -> list[Check]:
    return [c for c in judgement.checks if c.metric == metric and c.case == CASES[0]]


@pytest.mark.parametrize(
    ("ours", "theirs", "code"),
    [
        ({"psnr": 48.0}, {"psnr": 48.4}, 0),
        ({"psnr": 48.0}, {"psnr": 48.6}, 1),
        ({"psnr": 59.6}, {"psnr": 78.0}, 0),
        ({"psnr": 59.4}, {"psnr": 78.0}, 1),
        ({"psnr": 40.0, "psnr_float": 50.0}, {"psnr": 48.0, "psnr_float": 50.3}, 0),
        ({"psnr": 48.0}, {"psnr": 48.0, "psnr_float": 60.0}, 0),
        ({"psnr": float("nan")}, {"psnr": 48.0}, 1),
        ({"psnr": 48.0}, {"psnr": float("nan")}, 1),
    ],
)
def test_no_farther_from_fp32_than_the_baseline(
    ours: dict[str, float], theirs: dict[str, float], code: int
) -> None:
    judgement = judge(_from_fp32(_half_precision(), ours, theirs), Policy())
    assert judgement.exit_code == code
    (check,) = _found(judgement, "psnr_vs_fp32")
    assert check.reason_code == ("below_limit" if code else "within_limits")
    assert "dB from fp32, the baseline's own precision is" in check.message


def test_the_tolerated_drop_is_the_policy_s() -> None:
    run = _from_fp32(_half_precision(), {"psnr": 48.0}, {"psnr": 49.0})
    assert judge(run, Policy()).exit_code == ExitCode.REGRESSION
    policy = parse_policy({"cases": {CASES[0]: {"own_precision_drop_db": 1.5}}}, "test")
    assert judge(run, policy).exit_code == ExitCode.OK


def test_in_fp32_the_baseline_is_the_reference_and_in_fp16_a_missing_one_is_told() -> None:
    assert _found(judge(make_run(), Policy()), "psnr_vs_fp32") == []
    judgement = judge(_without_fp32(_half_precision()), Policy())
    assert judgement.exit_code == ExitCode.INCONCLUSIVE
    (check,) = _found(judgement, "psnr_vs_fp32")
    assert (check.verdict, check.reason_code) == (Verdict.INCONCLUSIVE, "not_measured")
    assert check.message == "fp32 reference of 48x32x4: not measured"


def test_callables_of_a_test_suite_have_no_fp32_reference() -> None:
    run = change_head(_without_fp32(_half_precision()), precision="native", cases=CASES[:1])
    assert _found(judge(run, Policy()), "psnr_vs_fp32") == []


@pytest.mark.parametrize(
    ("outcome", "code", "verdict"),
    [
        ("oom", 0, Verdict.SKIPPED),
        ("unsupported", 0, Verdict.SKIPPED),
        ("timeout", 3, Verdict.INCONCLUSIVE),
        ("crash", 3, Verdict.INCONCLUSIVE),
        ("invalid", 3, Verdict.INCONCLUSIVE),
    ],
)
def test_a_reference_that_could_not_be_computed(outcome: str, code: int, verdict: Verdict) -> None:
    run = _half_precision()
    for arm in (BASELINE, OPTIMIZED):
        run = _role(run, "fp32", arm, outcome=outcome, reason="why")
    judgement = judge(run, Policy())
    assert judgement.exit_code == code
    (check,) = _found(judgement, "psnr_vs_fp32")
    assert (check.verdict, check.reason_code) == (verdict, outcome)
    assert check.message.endswith("why")


def test_nan_of_the_candidate_alone_is_its_own() -> None:
    nan = {"outcome": "invalid", "reason": f"{OPTIMIZED} computed NaN"}
    run = _role(_half_precision(), "fp32", OPTIMIZED, **nan)
    judgement = judge(run, Policy())
    assert judgement.exit_code == ExitCode.REGRESSION
    (check,) = _found(judgement, "psnr_vs_fp32")
    assert (check.verdict, check.reason_code) == (Verdict.FAIL, "invalid")
    alone = _role(_without_fp32(run), "fp32", OPTIMIZED, **nan)
    assert judge(alone, Policy()).exit_code == ExitCode.INCONCLUSIVE


def test_half_a_comparison_with_fp32_stays_open() -> None:
    for arm in (BASELINE, OPTIMIZED):
        run = _role(_without_fp32(_half_precision()), "fp32", arm, metrics={"psnr": 48.0})
        assert judge(run, Policy()).exit_code == ExitCode.INCONCLUSIVE
    empty = _from_fp32(_half_precision(), {"ssim": 1.0}, {"ssim": 1.0})
    assert judge(empty, Policy()).exit_code == ExitCode.INCONCLUSIVE


@pytest.mark.parametrize(
    ("ours", "theirs", "code"),
    [(1.9e-3, 1e-4, 0), (2.1e-3, 1e-4, 1), (3.2e-3, 3e-3, 0), (3.4e-3, 3e-3, 1)],
)
def test_eps_is_held_against_fp32_and_that_decides(ours: float, theirs: float, code: int) -> None:
    """Between the arms it is past the tier's 2.8e-3 each time: the fp32 reference overrules."""
    run = _half_precision(eps_relative_l2=4e-3)
    assert judge(run, Policy()).exit_code == ExitCode.REGRESSION
    metrics = [{"psnr": 48.0, "eps_relative_l2": eps} for eps in (ours, theirs)]
    judgement = judge(_from_fp32(run, *metrics), Policy())
    assert judgement.exit_code == code
    assert _found(judgement, "eps_relative_l2") == []
    (check,) = _found(judgement, "eps_vs_fp32")
    assert check.threshold == pytest.approx(max(2e-3, 1.1 * theirs))


def test_eps_between_the_arms_holds_where_fp32_has_none() -> None:
    run = _half_precision(eps_relative_l2=4e-3)
    judgement = judge(_from_fp32(run, {"psnr": 48.0}, {"psnr": 48.0}), Policy())
    assert judgement.exit_code == ExitCode.REGRESSION
    assert _found(judgement, "eps_vs_fp32") == []


def _hashed(run: Run, picture: Callable[[str, int, int], str]) -> Run:
    """Hashes by arm, block and pair."""
    cells = [
        replace(
            cell,
            picture_sha256=None,
            samples=[
                sample | {"output_sha256": picture(cell.pipeline, cell.block, sample["pair"])}
                for sample in cell.samples
            ],
        )
        for cell in run.cells
    ]
    return replace(run, cells=cells)


def _hashless(cell: CellRecord) -> CellRecord:
    samples = [sample | {"output_sha256": ""} for sample in cell.samples]
    return replace(cell, samples=samples, picture_sha256=None)


def _candidate_differs(run: Run) -> Run:
    return _hashed(run, lambda arm, _, pair: str(pair % 2) if arm == OPTIMIZED else "same")


def _both_differ(run: Run) -> Run:
    return _hashed(run, lambda _, block, pair: f"{block}{pair}")


def test_the_same_picture_passes() -> None:
    judgement = judge(_hashed(make_run(), lambda *_: "same"), Policy())
    assert judgement.exit_code == ExitCode.OK
    assert judgement.warnings == []
    (check,) = _found(judgement, "determinism")
    assert (check.verdict, check.value) == (Verdict.PASS, 1)


def test_unchecked_is_not_passed() -> None:
    """Whether all cases or one lack their hashes, as files of an older srbench do."""
    run = make_run()
    for unhashed in (CASES, CASES[:1]):
        cells = [_hashless(cell) if cell.case in unhashed else cell for cell in run.cells]
        judgement = judge(replace(run, cells=cells), Policy())
        assert judgement.exit_code == ExitCode.INCONCLUSIVE
        found = [c for c in judgement.checks if c.metric == "determinism"]
        open_cases = [c.case for c in found if c.verdict is Verdict.INCONCLUSIVE]
        assert open_cases == unhashed
        assert found[0].message == (
            "determinism 48x32x4 of s3diff-optimized was not checked: "
            "neither hashes nor second pictures"
        )
    weights = {"kind": "none", "digest": "", "synthetic": False, "label": "none: callables"}
    callables = change_head(replace(run, cells=list(map(_hashless, run.cells))), weights=weights)
    judgement = judge(callables, Policy())
    assert judgement.exit_code == ExitCode.OK
    assert {c.verdict for c in judgement.checks if c.metric == "determinism"} == {Verdict.SKIPPED}


def test_a_timed_picture_other_than_the_judged_one_fails() -> None:
    run = _hashed(make_run(), lambda *_: "timed")
    cells = [
        replace(cell, picture_sha256="judged" if cell.pipeline == OPTIMIZED else "timed")
        if cell.block == 0
        else cell
        for cell in run.cells
    ]
    judgement = judge(replace(run, cells=cells), Policy())
    assert judgement.exit_code == ExitCode.REGRESSION
    line = judgement.line()
    assert f"48x32x4 s3diff-optimized: {UNTIMED}, how far apart was not measured" in line
    assert "different pictures" not in line


def test_a_close_repeat_of_the_judged_picture_does_not_excuse_other_timed_ones() -> None:
    """The repeat is held against the judged picture; nothing is known of those that were timed."""
    run = _hashed(
        make_run(cases=CASES[:1]), lambda arm, _, pair: str(pair) if arm == BASELINE else "timed"
    )
    cells = [
        replace(cell, picture_sha256="judged") if cell.pipeline == OPTIMIZED else cell
        for cell in run.cells
    ]
    equal = CLOSE | {"distinct_pictures": 1.0}
    run = _role(replace(run, cells=cells), "repeat", OPTIMIZED, metrics=equal)
    judgement = judge(run, Policy())
    (check,) = _found(judgement, "determinism")
    assert check.verdict is Verdict.INCONCLUSIVE
    assert UNTIMED in check.message


def test_a_candidate_that_differs_within_a_process_fails_with_its_size() -> None:
    judgement = judge(_candidate_differs(make_run()), Policy())
    assert judgement.exit_code == ExitCode.REGRESSION
    assert (
        "48x32x4 s3diff-optimized makes 2 different pictures in one process, how far apart was not "
        "measured; the baseline makes one"
    ) in judgement.line()
    (check,) = _found(judgement, "determinism")
    assert (check.reason_code, check.value) == ("nondeterministic", 2)
    floor = {"psnr": 51.3, "max_abs_diff": 2.0}
    sized = judge(
        _role(_candidate_differs(make_run()), "repeat", OPTIMIZED, metrics=floor), Policy()
    )
    assert "makes 2 different pictures in one process, 51.3 dB apart" in sized.line()


def test_the_second_picture_shows_what_the_timed_ones_hid() -> None:
    same = _hashed(make_run(), lambda *_: "same")
    floor = {"psnr": 33.0, "max_abs_diff": 9.0, "distinct_pictures": 3.0}
    judgement = judge(_role(same, "repeat", OPTIMIZED, metrics=floor), Policy())
    assert "makes 3 different pictures in one process, 33.0 dB apart" in judgement.line()
    equal = {"psnr": 80.0, "max_abs_diff": 0.0}
    assert judge(_role(same, "repeat", OPTIMIZED, metrics=equal), Policy()).exit_code == 0


@pytest.mark.parametrize(
    ("floor", "code"),
    [
        ({"psnr": 55.0, "worst_block_psnr": 45.0}, 0),
        ({"psnr": 55.0, "worst_block_psnr": 20.0}, 1),
        ({"psnr": 45.0, "worst_block_psnr": 45.0}, 1),
    ],
)
def test_where_the_baseline_differs_too_the_tier_decides(
    floor: dict[str, float], code: int
) -> None:
    run = _both_differ(make_run(cases=CASES[:1]))
    assert judge(run, Policy()).exit_code == ExitCode.INCONCLUSIVE
    run = _role(run, "other_process", OPTIMIZED, metrics=CLOSE)
    judgement = judge(_role(run, "repeat", OPTIMIZED, metrics=floor), Policy())
    assert judgement.exit_code == code
    (check,) = _found(judgement, "determinism")
    assert check.reason_code == ("nondeterministic" if code else "within_limits")


@pytest.mark.parametrize(
    ("other", "verdict", "text"),
    [
        (None, Verdict.INCONCLUSIVE, "others, how far apart was not measured"),
        ({"outcome": "crash"}, Verdict.INCONCLUSIVE, "others, how far apart was not measured"),
        ({"outcome": "invalid", "reason": "NaN"}, Verdict.FAIL, "others, how far apart was not"),
        ({"metrics": {"psnr": 20.0, "worst_block_psnr": 9.0}}, Verdict.FAIL, ", 20.0 dB apart"),
        ({"metrics": {"psnr": 55.0, "worst_block_psnr": 45.0}}, Verdict.PASS, ", 55.0 dB apart"),
    ],
)
def test_where_both_differ_other_processes_are_asked_as_well(
    other: dict[str, Any] | None, verdict: Verdict, text: str
) -> None:
    """The repeat is of the first block's process and close."""
    run = _role(_both_differ(make_run(cases=CASES[:1])), "repeat", OPTIMIZED, metrics=CLOSE)
    if other is not None:
        run = _role(run, "other_process", OPTIMIZED, **other)
    (check,) = _found(judge(run, Policy()), "determinism")
    assert check.verdict is verdict
    assert text in check.message


def test_other_processes_that_make_the_first_one_s_pictures_need_no_record() -> None:
    run = _hashed(make_run(cases=CASES[:1]), lambda _, __, pair: str(pair % 2))
    run = _role(run, "repeat", OPTIMIZED, metrics=CLOSE)
    assert judge(run, Policy()).exit_code == ExitCode.OK
    far = {"psnr": 20.0, "worst_block_psnr": 9.0}
    far_run = _role(run, "other_process", OPTIMIZED, metrics=far)
    assert judge(far_run, Policy()).exit_code == ExitCode.REGRESSION


@pytest.mark.parametrize(
    "equal",
    [
        {"distinct_pictures": 1.0, "psnr": 80.0, "worst_block_psnr": 80.0},
        {"max_abs_diff": 0.0, "psnr": 80.0, "worst_block_psnr": 80.0},
        {"psnr": 100.0, "worst_block_psnr": 100.0},
    ],
)
def test_an_equal_repeat_tells_nothing_of_timed_pictures_that_differ(
    equal: dict[str, float],
) -> None:
    run = _hashed(make_run(cases=CASES[:1]), lambda _, __, pair: str(pair % 2))
    run = _role(run, "repeat", OPTIMIZED, metrics=equal)
    run = _role(run, "other_process", OPTIMIZED, metrics=CLOSE)
    (check,) = _found(judge(run, Policy()), "determinism")
    assert check.verdict is Verdict.INCONCLUSIVE
    assert "in one process, how far apart was not measured" in check.message


def test_a_repeat_that_is_no_picture_fails() -> None:
    run = _both_differ(make_run(cases=CASES[:1]))
    broken = _role(run, "repeat", OPTIMIZED, outcome="invalid", reason="NaN")
    assert judge(broken, Policy()).exit_code == ExitCode.REGRESSION


def test_a_baseline_that_differs_alone_is_no_fault_of_the_candidate() -> None:
    run = _hashed(make_run(), lambda arm, _, pair: str(pair) if arm == BASELINE else "same")
    assert judge(run, Policy()).exit_code == ExitCode.OK


def _processes_differ(arm: str = OPTIMIZED) -> Run:
    run = make_run(cases=CASES[:1])
    return _hashed(run, lambda name, block, _: str(block % 3) if name == arm else "same")


APART = "pictures of {} differ from process to process in 48x32x4 (autotuning?), not within one"
UNJUDGED = (
    "48x32x4 s3diff-optimized paints 3 different pictures in different processes, and not all were "
    "judged"
)
UNTIMED = "the judged picture is none of those that were timed"
CLOSE = {"psnr": 55.0, "worst_block_psnr": 45.0, "max_abs_diff": 1.0}


@pytest.mark.parametrize(
    ("record", "verdict", "text"),
    [
        (None, Verdict.INCONCLUSIVE, UNJUDGED),
        ({"outcome": "unsupported", "reason": "gone"}, Verdict.INCONCLUSIVE, f"{UNJUDGED}: gone"),
        ({"outcome": "crash", "metrics": CLOSE}, Verdict.INCONCLUSIVE, UNJUDGED),
        ({"metrics": {"psnr": 55.0}}, Verdict.INCONCLUSIVE, ", 55.0 dB apart"),
        ({"outcome": "invalid", "reason": "NaN"}, Verdict.FAIL, "in different processes: NaN"),
        ({"metrics": CLOSE}, Verdict.PASS, ", 55.0 dB apart (worst block 45.0 dB)"),
        ({"metrics": CLOSE | {"psnr": 49.0}}, Verdict.FAIL, ", 49.0 dB apart"),
        ({"metrics": CLOSE | {"worst_block_psnr": 20.0}}, Verdict.FAIL, "(worst block 20.0 dB)"),
        ({"metrics": CLOSE | {"psnr": float("nan")}}, Verdict.FAIL, ", nan dB apart"),
    ],
)
def test_pictures_of_other_processes_must_be_judged_too(
    record: dict[str, Any] | None, verdict: Verdict, text: str
) -> None:
    run = _processes_differ()
    if record is not None:
        run = _role(run, "other_process", OPTIMIZED, **record)
    judgement = judge(run, Policy())
    (check,) = _found(judgement, "determinism")
    assert (check.verdict, check.value) == (verdict, 3)
    assert text in check.message
    assert (
        check.reason_code
        == {
            Verdict.PASS: "within_limits",
            Verdict.FAIL: "nondeterministic",
            Verdict.INCONCLUSIVE: "not_measured",
        }[verdict]
    )
    assert judgement.exit_code == {"pass": 0, "fail": 1, "inconclusive": 3}[verdict]
    assert judgement.warnings == [APART.format(OPTIMIZED)]


def test_a_baseline_that_differs_between_processes_is_a_warning() -> None:
    judgement = judge(_processes_differ(BASELINE), Policy())
    assert judgement.exit_code == ExitCode.OK
    assert judgement.warnings == [APART.format(BASELINE)]


@pytest.mark.parametrize(("digest", "code"), [("same", 0), ("another", 3)])
def test_a_judged_picture_that_was_never_timed_leaves_the_timed_ones_unjudged(
    digest: str, code: int
) -> None:
    """A resumed run makes its pictures again; they should be those of the timed images."""
    run = _hashed(make_run(cases=CASES[:1]), lambda *_: "same")
    judged = [replace(record, picture_sha256=digest) for record in run.fidelity]
    run = replace(run, fidelity=judged)
    judgement = judge(run, Policy())
    assert judgement.exit_code == code
    warning = f"the judged picture of {OPTIMIZED} in 48x32x4 is none of those that were timed"
    assert judgement.warnings == ([warning] if code else [])
    if code:
        assert f"48x32x4 {OPTIMIZED}: {UNTIMED}, and not all were judged" in judgement.line()
        sized = _role(run, "other_process", OPTIMIZED, metrics=CLOSE)
        assert judge(sized, Policy()).exit_code == ExitCode.OK


@pytest.mark.parametrize("pairs", [1, 5])
def test_timed_pictures_without_a_hash_beside_others_with_one_are_open(pairs: int) -> None:
    run = _hashed(
        make_run(cases=CASES[:1]),
        lambda arm, block, pair: "" if (arm, block) == (OPTIMIZED, 3) and pair < pairs else "same",
    )
    judgement = judge(run, Policy())
    assert judgement.exit_code == ExitCode.INCONCLUSIVE
    assert f"{pairs} timed pictures have no hash" in judgement.line()


@pytest.mark.parametrize(
    "metrics",
    [{}, {"psnr": 80.0}, {"max_abs_diff": float("nan")}, {"distinct_pictures": float("nan")}],
)
def test_a_repeat_that_compared_nothing_does_not_count(metrics: dict[str, float]) -> None:
    run = make_run(cases=CASES[:1])
    run = replace(run, cells=list(map(_hashless, run.cells)))
    judgement = judge(_role(run, "repeat", OPTIMIZED, metrics=metrics), Policy())
    (check,) = _found(judgement, "determinism")
    assert check.verdict is Verdict.INCONCLUSIVE
    assert "was not checked: neither hashes nor second pictures" in check.message


def test_callables_share_a_process_whatever_their_blocks() -> None:
    weights = {"kind": "none", "digest": "", "synthetic": False, "label": "none: callables"}
    judgement = judge(change_head(_processes_differ(), weights=weights), Policy())
    assert judgement.exit_code == ExitCode.REGRESSION
    assert "makes 3 different pictures in one process" in judgement.line()
