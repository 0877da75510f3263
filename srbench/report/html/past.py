"""The history section: a chart, the runs behind it as a table, and the steps in words."""

from __future__ import annotations

from dataclasses import dataclass

from srbench.report.history import History, Point, Series, Step
from srbench.report.html.charts import history_chart
from srbench.report.html.table import Cell, Table, memory, numeric
from srbench.report.text import interval, mebibytes, ratio, significant

_NAMES = {"speedup": "speed-up", "candidate_ms": "time of the candidate", "peak_bytes": "peak MiB"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """One case's history as the page shows it."""

    case: str
    candidate: str
    chart: str
    points: Table


def pasts(history: History) -> list[Past]:
    """Charts and tables of all series."""
    return [
        Past(
            case=series.case,
            candidate=series.candidate,
            chart=history_chart(series),
            points=_point_table(series),
        )
        for series in history.series
    ]


def step_table(history: History) -> Table | None:
    """Where a level changed, newest first; None when none did."""
    found = [(series, step) for series in history.series for step in series.steps]
    found.sort(key=lambda pair: pair[1].started_at, reverse=True)
    rows = [
        [
            Cell(series.case),
            Cell(series.candidate),
            Cell(_NAMES[step.metric]),
            Cell(step.run_id),
            Cell((step.commit or "–")[:12]),
            Cell(_level(step, step.before), step.before),
            Cell(_level(step, step.after), step.after),
            Cell(f"{100 * step.change:+.1f} %", step.change),
            _direction(step),
        ]
        for series, step in found
    ]
    header = [
        "Case",
        "Arm",
        "Metric",
        "Began with run",
        "Commit",
        "From",
        "To",
        "Change",
        "Which is",
    ]
    caption = "Detected steps: the level changed and stayed"
    return Table(caption=caption, header=header, words=5, rows=rows) if rows else None


def _direction(step: Step) -> Cell:
    better = (step.after > step.before) == (step.metric == "speedup")
    return Cell("better" if better else "worse", kind="" if better else "verdict verdict-fail")


def _level(step: Step, value: float) -> str:
    if step.metric == "speedup":
        return f"{value:.3f}x"
    if step.metric == "peak_bytes":
        return f"{mebibytes(round(value))} MiB"
    return f"{significant(value)} ms"


def _point_table(series: Series) -> Table:
    return Table(
        caption=f"{series.candidate} on {series.case}, oldest run first",
        header=["Run", "Commit", "Speed Up", "95 % interval", "median ms", "peak MiB"],
        words=2,
        rows=[_point_row(point) for point in series.points],
    )


def _point_row(point: Point) -> list[Cell]:
    value = point.speedup
    return [
        Cell(point.run_id),
        Cell((point.commit or "–")[:12]),
        numeric(value.value, ratio(value)),
        Cell(interval(value), value.low),
        numeric(point.candidate_ms),
        memory(point.peak_bytes),
    ]
