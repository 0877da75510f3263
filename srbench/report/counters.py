"""A run of counters alone, as a table."""

from __future__ import annotations

from srbench.gate.resources import memory_metric, peak_bytes, work_counters
from srbench.records import Run
from srbench.report.tables import plain_table

_GIGA = 1e9


def counter_table(run: Run) -> str:
    """One row a case and arm: GFLOP, launches, calls and bytes; the counts are exact."""
    rows = []
    counters: dict[str, None] = {}
    for case in run.head.cases:
        for arm in run.head.pipelines:
            counted = work_counters(run, case, arm)
            counters |= dict.fromkeys(counted)
            rows.append((case, arm, counted, peak_bytes(run, case, arm)))
    header = ["case", "arm", *(_title(name) for name in counters), memory_metric(run)]
    lines = [
        [case, arm, *(_value(name, counted.get(name)) for name in counters), _value("", peak)]
        for case, arm, counted, peak in rows
    ]
    return f"{run.head.run_id}: work of one image, exact\n{plain_table(header, lines, left=2)}"


def _title(counter: str) -> str:
    return "GFLOP" if counter == "flops" else counter.removeprefix("calls.")


def _value(counter: str, count: int | None) -> str:
    if count is None:
        return "–"
    return f"{count / _GIGA:,.3f}" if counter == "flops" else f"{count:,}"
