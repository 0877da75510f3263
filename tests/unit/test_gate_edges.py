"""What must never pass: gaps, broken machines, simulations taken for measurements."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from srbench.errors import ExitCode, NotComparableError, SrbenchError
from srbench.gate import Policy, Verdict, judge, require_judgeable
from srbench.gate.resources import memory_metric
from srbench.records import Run, VoidRecord
from srbench.report.verdict import verdict_json, verdict_table
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


def _half(run: Run) -> Run:
    cells = [cell for cell in run.cells if cell.block < 7]
    return replace(run, cells=cells, finished_blocks=set(range(7)), ended=False)


@pytest.mark.parametrize(("word", "code"), [("exit-3", 3), ("warn", 3), ("fail", 1)])
def test_an_unfinished_run_never_passes_whatever_the_policy_says(word: Any, code: int) -> None:
    judgement = judge(_half(make_run(blocks=10)), Policy(on_inconclusive=word))
    assert judgement.exit_code == code
    (open_check,) = judgement.open_questions
    assert open_check.reason_code == "unfinished"
    assert "the run has not finished: 7 of 10 blocks are there" in judgement.line()


def test_an_unfinished_run_may_fail_and_an_unfinished_reference_is_noted() -> None:
    slow = judge(_half(make_run(blocks=10, speedup=0.8)), Policy())
    assert slow.exit_code == ExitCode.REGRESSION
    judgement = judge(make_run(seed=1), Policy(), _half(make_run(seed=100, blocks=10)), NAME)
    assert judgement.exit_code == ExitCode.OK
    assert f"{NAME} has not finished" in judgement.warnings


def test_a_sequential_run_that_ended_early_is_whole() -> None:
    """Six blocks of sixteen: the look is the number of finished blocks, its alpha 0.004."""
    run = change_head(make_run(blocks=6), looks=[6, 10, 16], blocks=16)
    assert judge(run, Policy()).exit_code == ExitCode.OK


@pytest.mark.parametrize(
    ("finished", "planned", "looks", "code"),
    [(6, 6, [], 0), (6, 16, [6, 10, 16], 0), (6, 16, [], 3), (7, 16, [6, 10, 16], 3)],
)
def test_a_run_ends_with_its_last_block_or_at_a_look(
    finished: int, planned: int, looks: list[int], code: int
) -> None:
    run = change_head(make_run(blocks=finished), looks=looks, blocks=planned)
    judgement = judge(run, Policy(on_inconclusive="warn"))
    assert judgement.exit_code == code
    if code:
        text = f"the run ended too soon: {finished} of {planned} blocks are there"
        assert [check.message for check in judgement.open_questions] == [text]


def _of_case_0(run: Run, arm: str) -> list[tuple[int, str, str]]:
    return [(block, CASES[0], arm) for block in sorted(run.finished_blocks)]


@pytest.mark.parametrize("kept", [0, 2, 5])
@pytest.mark.parametrize("arms", [[BASELINE, OPTIMIZED], [OPTIMIZED]])
def test_a_cell_that_is_missing_is_no_pass_whatever_the_policy_says(
    arms: list[str], kept: int
) -> None:
    run = make_run()
    lost = {place for arm in arms for place in _of_case_0(run, arm)[kept:]}
    cells = [cell for cell in run.cells if (cell.block, cell.case, cell.pipeline) not in lost]
    judgement = judge(replace(run, cells=cells), Policy(on_inconclusive="warn"))
    assert judgement.exit_code == ExitCode.INCONCLUSIVE
    what = f"is missing in {6 - kept} of 6 blocks" if kept else "was not measured"
    assert f"{CASES[0]} {OPTIMIZED} {what}" in judgement.line()


def _crashed(run: Run, block: int) -> Run:
    places = [(cell.block, cell.case, cell.pipeline) for cell in run.cells]
    index = places.index((block, CASES[0], OPTIMIZED))
    return change_cell(run, index, outcome="crash", reason="gone", samples=[])


def _of_one_pipeline(run: Run) -> Run:
    arm = {"pipeline": "p", "revision": None, "commit": None}
    return change_head(run, arms={BASELINE: arm, OPTIMIZED: arm})


@pytest.mark.parametrize(("blocks", "need"), [(6, 6), (10, 10)])
def test_one_crash_makes_no_look_a_lenient_or_an_earlier_one(blocks: int, need: int) -> None:
    """The case that lost a block, and with it the mean, stay open; the others are judged."""
    slow = make_run(blocks=blocks, speedup=1.0, slowdown=1.03, noise=Noise(process=0.03))
    lost = _crashed(_of_one_pipeline(slow), block=1)
    promoted = make_run(seed=100, blocks=blocks, speedup=1.0)
    asked: list[tuple[str, Run, tuple[Any, ...]]] = [
        ("latency", lost, ()),
        ("latency", lost, (promoted, NAME)),
        ("time", lost, (promoted, NAME)),
        ("speedup", change_head(lost, arms={}), ()),
    ]
    for metric, run, reference in asked:
        judgement = judge(run, Policy(time_margin=0.05), *reference)
        found = {check.case: check for check in judgement.checks if check.metric == metric}
        short = {CASES[0]} if metric == "time" else {CASES[0], "geomean"}
        for case in short:
            check = found[case]
            assert (check.verdict, check.reason_code) == (Verdict.INCONCLUSIVE, "too_few_blocks")
            text = f": {blocks - 1} blocks are measured, this look needs {need}"
            assert check.message.endswith(text)
        assert not any("no slow-down proven" in check.message for check in found.values())
        assert "too_few_blocks" not in {
            check.reason_code for case, check in found.items() if case not in short
        }


def test_a_reference_with_a_crash_makes_no_look_a_lenient_one() -> None:
    run = make_run(speedup=1.0, slowdown=1.03, noise=Noise(process=0.03))
    promoted = _crashed(make_run(seed=100, speedup=1.0), block=1)
    judgement = judge(run, Policy(), promoted, NAME)
    found = [check for check in judgement.checks if check.metric == "latency"]
    assert not any("no slow-down proven" in check.message for check in found)
    assert Verdict.PASS not in {check.verdict for check in found}


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_time_that_is_no_number_is_damage(bad: float) -> None:
    run = make_run()
    samples = [run.cells[1].samples[0] | {"latency_ms": bad}, *run.cells[1].samples[1:]]
    with pytest.raises(SrbenchError, match="the file is damaged, measure again"):
        judge(change_cell(run, 1, samples=samples), Policy())


def test_nan_pictures_fail() -> None:
    reason = f"{OPTIMIZED} computed NaN or infinite values (3.00% of them)"
    run = change_fidelity(make_run(), 0, outcome="invalid", reason=reason, metrics={})
    judgement = judge(run, Policy())
    assert judgement.exit_code == ExitCode.REGRESSION
    assert "48x32x4 of s3diff-optimized: invalid: s3diff-optimized computed NaN" in judgement.line()


def test_every_cell_out_of_memory_is_infrastructure_also_against_a_promoted_run() -> None:
    run = make_run(seed=1)
    cells = [replace(c, outcome="oom", samples=[], memory={}, work={}) for c in run.cells]
    judgement = judge(replace(run, cells=cells, fidelity=[]), Policy(), make_run(seed=100), NAME)
    assert judgement.exit_code == ExitCode.INFRASTRUCTURE


def test_voided_blocks_are_counted_in_a_warning() -> None:
    void = VoidRecord(block=2, attempt=1, finished_at="", reasons=["thermal throttling"])
    again = replace(void, attempt=2, reasons=["thermal throttling", "a foreign process"])
    judgement = judge(replace(make_run(), voids=[void, again]), Policy())
    assert judgement.warnings == [
        "2 disturbed blocks were voided and repeated: thermal throttling; a foreign process"
    ]


def test_a_simulated_run_says_so_everywhere() -> None:
    run = change_head(make_run(speedup=0.8), purpose="simulation")
    judgement = judge(run, Policy())
    assert judgement.line().startswith("srbench gate: FAIL (SIMULATED) speed-up 48x32x4")
    table = verdict_table(judgement)
    assert "SIMULATED: no device was measured" in table.splitlines()[0]
    assert table.endswith("verdict: FAIL (SIMULATED)")
    assert verdict_json(judgement)["simulated"] is True
    assert verdict_json(judge(make_run(), Policy()))["simulated"] is False
    with pytest.raises(NotComparableError, match="other purpose: simulation"):
        judge(run, Policy(), make_run(), NAME)


@pytest.mark.parametrize(
    ("device", "metric"),
    [
        ("cpu", "peak_tensor_bytes"),
        ("meta", "peak_tensor_bytes"),
        ("cuda", "allocator_peak_bytes"),
        ("simulated", "allocator_peak_bytes"),
    ],
)
def test_the_memory_that_gates_follows_the_device(device: str, metric: str) -> None:
    assert memory_metric(change_head(make_run(), device=device)) == metric


def _work(**spec: Any) -> Run:
    """A run of counters alone, as the meta device gives it."""
    run = make_run(blocks=1, **spec)
    cells = [replace(cell, samples=[], warmup_ms=[], load_ms=None) for cell in run.cells]
    run = replace(run, cells=cells, fidelity=[])
    return change_head(run, purpose="work", device="meta", profile="meta")


def _counter(run: Run, index: int, **counters: int) -> Run:
    return change_cell(run, index, work=run.cells[index].work | counters)


def test_counters_alone_are_held_against_counters_only() -> None:
    with pytest.raises(NotComparableError, match="work counters only: hold it against another"):
        judge(_work(), Policy())
    with pytest.raises(NotComparableError, match="other profile: meta"):
        judge(_work(), Policy(), make_run(), NAME)
    measured = change_head(make_run(), profile="meta")
    with pytest.raises(NotComparableError, match="other purpose: work"):
        judge(_work(), Policy(), measured, NAME)


def test_equal_counters_pass_and_nothing_else_is_asked() -> None:
    judgement = judge(_work(), Policy(), _work(), NAME)
    assert judgement.exit_code == ExitCode.OK
    assert {check.metric for check in judgement.checks} == {
        "outcome",
        "peak_tensor_bytes",
        "launches",
        "host_device_bytes",
        "calls.unet",
        "calls.text_encoder",
        "flops",
    }
    assert judge(_work(arms=[OPTIMIZED]), Policy(), _work(arms=[OPTIMIZED]), NAME).exit_code == 0


@pytest.mark.parametrize(("index", "launches", "code"), [(1, 901, 1), (1, 899, 0), (0, 2399, 1)])
def test_one_launch_decides(index: int, launches: int, code: int) -> None:
    run = _counter(_work(), index, launches=launches)
    judgement = judge(run, Policy(), _work(), NAME)
    assert judgement.exit_code == code
    arm = (BASELINE, OPTIMIZED)[index]
    assert not code or f"launches {CASES[0]} {arm} {launches:,}" in judgement.line()


def test_one_byte_more_of_tensors_fails_where_it_is_a_count() -> None:
    work = _work()
    memory = {"peak_tensor_bytes": work.cells[1].memory["peak_tensor_bytes"] + 1}  # type: ignore[operator]
    judgement = judge(change_cell(work, 1, memory=memory), Policy(), work, NAME)
    assert judgement.exit_code == ExitCode.REGRESSION
    assert "peak_tensor_bytes 48x32x4" in judgement.line()


def test_counters_of_another_processor_hold_without_a_word_and_of_another_torch_with_one() -> None:
    def on(**facts: Any) -> Run:
        run = _work()
        return change_head(run, fingerprint=run.head.fingerprint | facts)

    assert judge(on(cpu_model="Other CPU"), Policy(), _work(), NAME).warnings == []
    other = judge(on(versions={"torch": "2.14.2"}), Policy(), _work(), NAME)
    assert other.warnings == [f"other torch: 2.14.2, but {NAME} has 2.14.1"]
    assert other.exit_code == ExitCode.OK


def test_no_counter_at_all_is_open_for_counters_alone() -> None:
    bare = _work()
    bare = replace(bare, cells=[replace(cell, work={}, memory={}) for cell in bare.cells])
    assert judge(bare, Policy(), bare, NAME).exit_code == ExitCode.INCONCLUSIVE
    timed = make_run(seed=1)
    timed = replace(timed, cells=[replace(cell, work={}) for cell in timed.cells])
    judgement = judge(timed, Policy(), timed, NAME)
    skipped = [check for check in judgement.checks if check.verdict is Verdict.SKIPPED]
    assert f"work {CASES[0]} {OPTIMIZED} was not counted" in {check.message for check in skipped}


def test_a_run_without_cases_is_not_comparable() -> None:
    run = change_head(make_run(), cases=[])
    for against in (None, make_run(seed=100)):
        with pytest.raises(NotComparableError, match=r"names no case: nothing to judge"):
            judge(run, Policy(), against, NAME)
        with pytest.raises(NotComparableError, match=r"names no case: nothing to judge"):
            require_judgeable(run, Policy(), against, NAME)
    with pytest.raises(NotComparableError, match=f"but {NAME} has none"):
        judge(make_run(), Policy(), run, NAME)


@pytest.mark.parametrize(
    ("kept", "word", "verdict"),
    [
        ([], "exit-3", Verdict.NO_BASELINE),
        ([Verdict.SKIPPED], "exit-3", Verdict.NO_BASELINE),
        ([Verdict.INCONCLUSIVE], "warn", Verdict.INCONCLUSIVE),
        ([Verdict.INCONCLUSIVE, Verdict.PASS], "warn", Verdict.PASS),
        ([Verdict.SKIPPED, Verdict.PASS], "exit-3", Verdict.PASS),
    ],
)
def test_nothing_passes_without_a_check_that_passed(
    kept: list[Verdict], word: str, verdict: Verdict
) -> None:
    judgement = judge(make_run(blocks=1), Policy(on_inconclusive=word))  # type: ignore[arg-type]
    checks = [check for check in judgement.checks if check.verdict in kept]
    assert {check.verdict for check in checks} == set(kept)
    spoken = replace(judgement, checks=checks)
    assert spoken.verdict is verdict
    assert spoken.line().endswith("NOT COMPARABLE nothing was judged") == (
        verdict is Verdict.NO_BASELINE
    )


def test_cells_that_are_there_are_no_check_that_passed() -> None:
    judgement = judge(make_run(), Policy())
    outcomes = [check for check in judgement.checks if check.metric == "outcome"]
    assert {check.verdict for check in outcomes} == {Verdict.PASS}
    alone = replace(judgement, checks=outcomes)
    assert alone.verdict is Verdict.NO_BASELINE
    assert alone.line() == "srbench gate: NOT COMPARABLE nothing was judged"
    open_check = replace(outcomes[0], metric="psnr", verdict=Verdict.INCONCLUSIVE)
    spared = replace(judgement, checks=[*outcomes, open_check], on_inconclusive="warn")
    assert spared.verdict is Verdict.INCONCLUSIVE


def test_the_line_of_a_pass_says_so() -> None:
    judgement = judge(make_run(), Policy())
    passed = sum(check.verdict is Verdict.PASS for check in judgement.checks)
    count = f"{passed} of {len(judgement.checks)} checks passed"
    assert judgement.line() == f"srbench gate: PASS {count}"


@pytest.mark.parametrize(("kept", "code"), [(5, 0), (4, 3), (0, 3)])
def test_a_good_cell_with_too_few_images_is_unfinished(kept: int, code: int) -> None:
    run = make_run()
    run = change_cell(run, 1, samples=run.cells[1].samples[:kept])
    judgement = judge(run, Policy(on_inconclusive="warn"))
    assert judgement.exit_code == code
    text = f"{CASES[0]} {OPTIMIZED} has fewer than 5 timed images in 1 of 6 blocks"
    assert (text in judgement.line()) == bool(code)


@pytest.mark.parametrize("zero", [{"launches": 0}, {"flops": {}}, {"launches": None}])
def test_runs_of_counters_always_need_launches_and_flops(zero: dict[str, Any]) -> None:
    run = _work()
    run = replace(run, cells=[replace(cell, work=cell.work | zero) for cell in run.cells])
    judgement = judge(run, Policy(), run, NAME)
    assert judgement.exit_code == ExitCode.INCONCLUSIVE
    assert {check.metric for check in judgement.open_questions} == set(zero)


def test_overrides_of_cases_that_the_run_lacks_warn() -> None:
    policy = Policy(cases={CASES[0]: {"margin": 0.1}, "99x99x4": {"margin": 0.1}})
    judgement = judge(make_run(), policy)
    assert judgement.exit_code == ExitCode.OK
    assert judgement.warnings == ["[gate.cases] of the policy has 99x99x4, which this run has not"]


def test_nothing_of_a_hand_made_file_reaches_the_terminal_raw() -> None:
    evil, also = "\x1b]0;owned\x07\nverdict: PASS", "\x9b31m\u202earm"
    run = make_run(arms=[BASELINE, OPTIMIZED, also])
    run = change_cell(run, 1, outcome="oom", reason=evil, samples=[])
    run = replace(run, voids=[VoidRecord(block=0, attempt=1, finished_at="", reasons=[evil])])
    judgement = judge(run, Policy())
    texts = [judgement.line(), *judgement.warnings, *(check.message for check in judgement.checks)]
    assert all(text.isprintable() for text in texts)
    assert "]0;owned verdict: PASS" in judgement.line()
    assert any("31m arm: " in text for text in texts)
