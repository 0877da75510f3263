from __future__ import annotations

import json
from dataclasses import replace
from math import exp, log
from typing import Any

import numpy as np
import pytest

from srbench.aa import aa_markdown, aa_table, analyse, noise_file
from srbench.errors import UsageError
from srbench.noise import smallest_margin
from srbench.records import Run
from srbench.stats import one_sample, required_blocks
from srbench.stats.runs import block_log_ratios, order_log_ratios
from tests.factories import CASES, TYPICAL, Noise, change_cell, change_head, make_run

PIPELINE = "s3diff-optimized"
NO_NOISE = Noise(process=0.0, block=0.0, iteration=0.0)


def aa_run(**changes: Any) -> Run:
    arms = {arm: {"pipeline": PIPELINE, "revision": None, "commit": None} for arm in "AB"}
    facts: dict[str, Any] = {"arms": ["A", "B"], "speedup": 1.0, "blocks": 10, "noise": TYPICAL}
    return make_run(**(facts | changes), head={"purpose": "aa", "arms": arms})


def reordered(run: Run, second_costs: float = 1.0) -> Run:
    """The run in ABBA order, whoever goes second in a pair being slower by that factor."""
    cells = []
    for cell in run.cells:
        samples = []
        for sample in cell.samples:
            second = (cell.pipeline == "B") != (sample["pair"] % 2 == 1)
            samples.append(
                sample
                | {
                    "position": 2 * sample["pair"] + second,
                    "latency_ms": sample["latency_ms"] * (second_costs if second else 1.0),
                }
            )
        cells.append(replace(cell, samples=samples))
    return replace(run, cells=cells)


def test_equal_arms_pass_and_every_number_has_its_source() -> None:
    run = aa_run()
    result = analyse(run)
    assert (result.verdict, result.exit_code, result.line()) == ("pass", 0, "")
    assert [row.case for row in result.rows] == [*CASES, "geomean"]
    row = result.rows[0]
    effect = one_sample(list(block_log_ratios(run, CASES[0], "B").values()))
    assert row.ratio == pytest.approx(exp(effect.estimate))
    assert row.interval == pytest.approx(np.exp(effect.interval()))  # type: ignore[arg-type]
    family = effect.interval(1 - 0.01 / 4)
    assert row.simultaneous == pytest.approx(np.exp(family))  # type: ignore[arg-type]
    ratios = list(block_log_ratios(run, CASES[0], "B").values())
    assert row.sd == pytest.approx(np.std(ratios, ddof=1))
    assert sorted(row.mde) == [6, 10, 16]
    assert row.mde[6] > row.mde[10] > row.mde[16] > 0
    assert row.sign_flip_p is not None
    assert row.sd is not None
    assert row.blocks_for_margin == required_blocks(log(1.05), row.sd, 0.003)
    assert f"{row.sign_flip_p:.3f}" in aa_table(result)
    assert result.pipeline == PIPELINE


def test_an_arm_that_is_slower_fails_by_name() -> None:
    result = analyse(aa_run(slowdown=1.04))
    assert (result.verdict, result.exit_code) == ("fail", 1)
    assert all(case in result.line() for case in (*CASES, "geomean", PIPELINE))
    assert "\n" not in result.line()


def test_faster_fails_too() -> None:
    assert analyse(aa_run(slowdown=0.96)).verdict == "fail"


def test_one_block_proves_nothing() -> None:
    run = aa_run(blocks=1)
    result = analyse(run)
    assert (result.verdict, result.exit_code) == ("inconclusive", 3)
    assert result.false_alarms is None
    assert result.planted == []
    assert "one block" in result.line()
    assert "n/a" in aa_table(result)
    with pytest.raises(UsageError, match="no noise without two blocks"):
        noise_file(run, result)


def test_few_blocks_carry_their_own_detectable_effect() -> None:
    result = analyse(aa_run(blocks=3))
    assert sorted(result.rows[0].mde) == [3, 6, 10, 16]
    assert result.verdict == "pass"


def test_a_case_without_results_leaves_the_verdict_open() -> None:
    run = aa_run(blocks=6)
    for index, cell in enumerate(run.cells):
        if (cell.case, cell.pipeline) == (CASES[1], "B"):
            run = change_cell(run, index, outcome="oom", samples=[])
    result = analyse(run)
    assert (result.verdict, result.missing) == ("inconclusive", [CASES[1]])
    assert CASES[1] in result.line()
    assert f"{CASES[1]}: no timed pair" in aa_table(result)


def test_an_empty_run_does_not_pass() -> None:
    result = analyse(replace(aa_run(), cells=[]))
    assert (result.verdict, result.rows, result.missing) == ("inconclusive", [], CASES)
    assert "INCONCLUSIVE" in aa_table(result)


def test_order_effect_is_seen_and_is_not_the_arms() -> None:
    run = reordered(aa_run(noise=NO_NOISE, slowdown=1.05), second_costs=1.03)
    ratios = order_log_ratios(run, CASES[0], "B")
    assert list(ratios) == list(range(10))
    assert list(ratios.values()) == pytest.approx([log(1.03)] * 10)
    row = analyse(run).rows[0]
    assert row.order == pytest.approx(1.03)


def test_no_order_effect_where_there_is_none() -> None:
    for row in analyse(reordered(aa_run())).rows:
        assert row.order_interval is not None
        assert row.order_interval[0] <= 1.0 <= row.order_interval[1]


def test_one_order_only_says_nothing_of_the_order() -> None:
    assert analyse(aa_run()).rows[0].order is None


@pytest.mark.parametrize(("blocks", "patterns", "all_of_them"), [(6, 64, True), (12, 2000, False)])
def test_false_alarms_are_counted_over_sign_patterns(
    blocks: int, patterns: int, all_of_them: bool
) -> None:
    run = aa_run(blocks=blocks)
    alarms = analyse(run).false_alarms
    assert alarms is not None
    assert (alarms.patterns, alarms.exhaustive, alarms.margin) == (patterns, all_of_them, 0.0)
    assert alarms.failed <= 0.02 * patterns
    assert analyse(run).false_alarms == alarms


def test_false_alarm_by_hand() -> None:
    """d of one sign only: of 64 patterns the one that makes all slower is past every bound."""
    alarms = analyse(aa_run(noise=NO_NOISE, blocks=6, slowdown=1.01)).false_alarms
    assert alarms is not None
    assert alarms.failed == 1


def test_planted_slowdowns_are_found_at_the_stated_margin() -> None:
    two, five = analyse(aa_run()).planted
    assert (two.slowdown, two.margin, two.verdict) == (0.02, 0.0, "found")
    assert five.margin == pytest.approx(0.03)
    assert (five.slowdown, five.verdict) == (0.05, "found")
    assert five.cases == [*CASES, "geomean"]


def test_noise_that_hides_a_planted_slowdown_is_admitted() -> None:
    loud = Noise(process=0.08, block=0.05, iteration=0.05)
    words = [each.verdict for each in analyse(aa_run(noise=loud, blocks=6)).planted]
    assert words == ["inconclusive", "inconclusive"]
    assert [each.verdict for each in analyse(aa_run(noise=loud, blocks=3)).planted] == [
        "not found",
        "not found",
    ]


def test_noise_file_holds_what_the_gate_asks_for() -> None:
    run = aa_run()
    result = analyse(run)
    noise = noise_file(run, result)
    assert (noise.profile, noise.device_name, noise.driver) == ("cpu", "Some CPU", None)
    assert (noise.pipeline, noise.blocks, noise.pairs) == (PIPELINE, 10, 5)
    assert noise.sd == {row.case: row.sd for row in result.rows}
    assert smallest_margin(noise, CASES[0], 16) == pytest.approx(result.rows[0].mde[16])


def test_a_single_case_is_its_own_mean() -> None:
    run = aa_run(cases=CASES[:1])
    result = analyse(run)
    assert [row.case for row in result.rows] == CASES[:1]
    assert set(noise_file(run, result).sd) == {CASES[0], "geomean"}


def test_json_is_complete_and_tables_agree() -> None:
    result = analyse(aa_run())
    content = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert (content["verdict"], content["exit_code"]) == ("pass", 0)
    assert content["rows"][0]["covers"] is True
    assert content["rows"][0]["mde"]["10"] == result.rows[0].mde[10]
    for text in (aa_table(result), aa_markdown(result)):
        assert f"{result.rows[-1].ratio:.4f}" in text
        assert "blocks for 5 %" in text
        assert "planted slow-down of 5 %, margin 3 %: found" in text
        assert "verdict: PASS" in text
    assert all(line.startswith("|") for line in aa_markdown(result).split("\n\n")[2].splitlines())


def test_other_runs_are_refused() -> None:
    with pytest.raises(UsageError, match="not the same pipeline"):
        analyse(make_run())
    with pytest.raises(UsageError, match="two arms, not 3"):
        analyse(change_head(aa_run(), pipelines=["A", "B", "C"]))
