from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest

from srbench.gate import Check, Judgement, Policy, Verdict, judge
from srbench.report.github import (
    MAX_ANNOTATIONS,
    MAX_SUMMARY_BYTES,
    escape,
    escape_property,
    step_summary,
    workflow_commands,
)
from srbench.report.junit import junit_xml
from srbench.report.verdict import verdict_json, verdict_table
from tests.factories import CASES, change_cell, change_fidelity, make_run


def _judgement() -> Judgement:
    run = change_cell(make_run(), 2, outcome="oom", reason="asked for \x1b[31m12 GiB", samples=[])
    run = change_fidelity(run, 0, metrics={"psnr": 20.0})
    return judge(run, Policy())


def _check(verdict: Verdict, message: str = "m") -> Check:
    return Check(
        case="c",
        pipeline="p",
        metric="psnr",
        value=float("nan"),
        threshold=1.0,
        interval=(0.5, float("inf")),
        verdict=verdict,
        reason_code="code",
        message=message,
    )


def _many(count: int) -> Judgement:
    checks = [_check(Verdict.FAIL, f"failure {n}") for n in range(count)]
    return Judgement(run_id="r", profile="cpu", against=None, checks=checks)


def test_each_check_is_a_testcase_with_its_verdict() -> None:
    judgement = _judgement()
    suite = ElementTree.fromstring(junit_xml(judgement))
    assert int(suite.attrib["tests"]) == len(judgement.checks) == len(suite.findall("testcase"))
    assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure")) == 1
    assert int(suite.attrib["errors"]) == len(suite.findall("testcase/error")) == 1
    assert int(suite.attrib["skipped"]) == len(suite.findall("testcase/skipped"))
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.attrib["type"] == "below_limit"
    assert "psnr 48x32x4 20 dB" in failure.attrib["message"]
    error = suite.find("testcase[@classname='srbench.cpu.64x64x2']/error")
    assert error is not None
    assert error.attrib["type"] == "oom"
    skipped = [case.attrib["name"] for case in suite.findall("testcase[skipped]")]
    assert "worst_block_psnr s3diff-optimized" in skipped


@pytest.mark.parametrize(
    "message", ["plain", "ctrl \x00\x1b\x08 \ud800 \ufffe \U0001f600", "]]> <&\" '"]
)
def test_any_message_gives_the_structure_that_ci_systems_read(message: str) -> None:
    checks = [_check(verdict, message) for verdict in Verdict]
    judgement = Judgement(run_id=message, profile="cpu", against=message, checks=checks)
    text = junit_xml(judgement)
    suite = ElementTree.fromstring(text.encode())
    assert suite.tag == "testsuite"
    assert [child.tag for child in suite] == ["properties", *["testcase"] * len(checks)]
    cases = suite.findall("testcase")
    assert all(case.attrib["classname"] and case.attrib["name"] for case in cases)
    assert all(len(case) == 1 for case in cases)
    assert all("message" in case[0].attrib for case in cases if case[0].tag != "system-out")
    tags = [case[0].tag for case in cases]
    assert sorted(set(tags)) == ["error", "failure", "skipped", "system-out"]
    for word, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        assert int(suite.attrib[word]) == tags.count(tag)
    assert text == junit_xml(judgement)


def test_policy_that_fails_open_questions_fails_them_in_junit_and_annotations() -> None:
    judgement = Judgement(
        run_id="r",
        profile="cpu",
        against=None,
        checks=[_check(Verdict.INCONCLUSIVE)],
        on_inconclusive="fail",
    )
    assert ElementTree.fromstring(junit_xml(judgement)).attrib["failures"] == "1"
    assert workflow_commands(judgement) == ["::error title=srbench gate::m"]


def test_500_checks_fit_github() -> None:
    judgement = _many(500)
    assert len(workflow_commands(judgement)) == 10
    summary = step_summary(judgement)
    assert summary.count("| fail |") == 500
    assert "more checks did not pass" not in summary
    long = replace(judgement, checks=[_check(Verdict.FAIL, "ü|" * 2000)] * 500)
    summary = step_summary(long)
    assert len(summary.encode()) < MAX_SUMMARY_BYTES
    shown = summary.count("| fail |")
    assert 0 < shown < 500
    assert f"{500 - shown} more checks did not pass; `srbench gate --json`" in summary
    assert summary.endswith("0 of 500 checks passed.\n")


def test_gravest_checks_are_annotated_first() -> None:
    checks = [_check(Verdict.INCONCLUSIVE, f"open {n}") for n in range(300)]
    checks += [_check(Verdict.ERROR, f"broken {n}") for n in range(3)]
    checks += [_check(Verdict.FAIL, f"slower {n}") for n in range(2)]
    judgement = Judgement(run_id="r", profile="cpu", against=None, checks=checks, simulated=True)
    lines = workflow_commands(judgement)
    assert [line.rpartition("::")[2] for line in lines[:5]] == [
        *("slower 0", "slower 1", "broken 0", "broken 1", "broken 2"),
    ]
    assert lines[0].startswith("::error title=srbench gate (SIMULATED)::")
    assert escape_property("a:b,c%\n") == "a%3Ab%2Cc%25%0A"


def test_step_summary_shows_the_gravest_first() -> None:
    text = step_summary(_judgement())
    assert text.startswith("## srbench gate: FAIL")
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert rows[0].startswith("| fail | 48x32x4 | psnr |")
    assert rows[1].startswith("| error |")


def test_at_most_ten_annotations() -> None:
    assert workflow_commands(_many(0)) == []
    assert len(workflow_commands(_many(10))) == 10
    lines = workflow_commands(_many(25))
    assert len(lines) == MAX_ANNOTATIONS
    assert lines[0] == "::error title=srbench gate::failure 0"
    assert lines[-1] == (
        "::warning title=srbench gate::16 more checks did not pass, see the step summary"
    )


def test_annotations_are_escaped_and_levelled() -> None:
    assert escape("5 %\nx") == "5 %25%0Ax"
    judgement = Judgement(
        run_id="r", profile="cpu", against=None, checks=[_check(Verdict.INCONCLUSIVE)]
    )
    assert workflow_commands(judgement) == ["::warning title=srbench gate::m"]


def test_json_holds_no_number_that_json_lacks() -> None:
    document = verdict_json(_many(1))
    assert document["verdict"] == "fail"
    assert document["exit_code"] == 1
    assert document["checks"][0]["value"] is None
    assert document["checks"][0]["interval"] == [0.5, None]
    assert document["checks"][0]["reason_code"] == "code"


def test_table_hides_passing_counters_and_ends_in_the_verdict() -> None:
    table = verdict_table(judge(make_run(), Policy(), make_run(seed=9), "promoted 'main'"))
    assert "launches" not in table
    assert "more checks passed (outcomes, work counters)" in table
    assert table.endswith("verdict: PASS")
    assert all(case in table for case in CASES)
