"""An A/A result as text: for a terminal and for the report page."""

from __future__ import annotations

from collections.abc import Sequence

from srbench.aa.result import AaResult, AaRow, Interval
from srbench.report.markdown import table
from srbench.report.tables import plain_table

_WORDS = {"pass": "PASS", "fail": "FAIL", "inconclusive": "INCONCLUSIVE"}
_NONE = "n/a"


def aa_table(result: AaResult) -> str:
    """Plain text for stdout."""
    return "\n\n".join(
        [
            _title(result),
            plain_table(_equality_header(result), [_equality(row) for row in result.rows]),
            plain_table(_detectable_header(result), _detectable(result)),
            "\n".join(_sentences(result)),
        ]
    )


def aa_markdown(result: AaResult, heading: str = "##") -> str:
    """A section of the report page."""
    return "\n\n".join(
        [
            f"{heading} A/A: {result.pipeline} against itself",
            f"Run {_title(result)}.",
            table(_equality_header(result), [_equality(row) for row in result.rows]),
            "Smallest slow-down that so many blocks show with 80 % power, at the gate's alpha of "
            "that look:",
            table(_detectable_header(result), _detectable(result)),
            "\n".join(f"- {sentence}" for sentence in _sentences(result)),
        ]
    )


def _title(result: AaResult) -> str:
    return (
        f"{result.run_id}: {result.pipeline} against itself, {result.blocks} blocks x "
        f"{result.pairs} pairs"
    )


def _equality_header(result: AaResult) -> list[str]:
    family = f"all at {100 * result.confidence:g} %"
    order = ["2nd/1st of a pair", "95 %"]
    return ["case", "blocks", "time B/A", "95 %", family, "covers 1", "sign-flip p", *order]


def _equality(row: AaRow) -> list[str]:
    answer = {True: "yes", False: "NO", None: _NONE}[row.covers]
    return [
        row.case,
        str(row.blocks),
        f"{row.ratio:.4f}",
        _interval(row.interval),
        _interval(row.simultaneous),
        answer,
        _NONE if row.sign_flip_p is None else f"{row.sign_flip_p:.3f}",
        _NONE if row.order is None else f"{row.order:.4f}",
        _interval(row.order_interval),
    ]


def _counts(result: AaResult) -> list[int]:
    return sorted(set().union(*(row.mde for row in result.rows)))


def _detectable_header(result: AaResult) -> list[str]:
    counts = [f"{count} blocks" for count in _counts(result)]
    return ["case", "sd a block", *counts, f"blocks for {100 * result.margin:g} %"]


def _detectable(result: AaResult) -> list[Sequence[str]]:
    return [
        [
            row.case,
            _percent(row.sd),
            *(_percent(row.mde.get(count)) for count in _counts(result)),
            _NONE if row.blocks_for_margin is None else str(row.blocks_for_margin),
        ]
        for row in result.rows
    ]


def _sentences(result: AaResult) -> list[str]:
    lines = []
    if (alarms := result.false_alarms) is not None:
        tried = f"all {alarms.patterns}" if alarms.exhaustive else f"{alarms.patterns} drawn"
        lines.append(
            f"false alarms: the gate's rule at margin {100 * alarms.margin:g} % fails "
            f"{alarms.failed} of {tried} sign patterns of the blocks "
            f"({100 * alarms.failed / alarms.patterns:.2g} %)"
        )
    for each in result.planted:
        where = f" in {', '.join(each.cases)}" if each.cases else ""
        lines.append(
            f"planted slow-down of {100 * each.slowdown:g} %, margin {100 * each.margin:g} %: "
            f"{each.verdict}{where}"
        )
    lines += [f"{case}: no timed pair of both arms" for case in result.missing]
    reason = {
        "pass": "every simultaneous interval covers 1",
        "fail": "an interval excludes 1: the pipeline differs from itself",
        "inconclusive": "not every case has an interval",
    }[result.verdict]
    return [*lines, f"verdict: {_WORDS[result.verdict]} ({reason})"]


def _interval(value: Interval | None) -> str:
    return _NONE if value is None else f"{value[0]:.4f}..{value[1]:.4f}"


def _percent(value: float | None) -> str:
    return _NONE if value is None else f"{100 * value:.2f} %"
