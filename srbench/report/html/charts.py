"""The charts of a page: speed-up intervals, stages of each arm, a case's history."""

from __future__ import annotations

from srbench.report.figures import (
    OTHER,
    OTHER_COLOR,
    STAGE_COLORS,
    duration,
    named_stages,
    published_speedup,
    stage_bars,
)
from srbench.report.history import Point, Series
from srbench.report.html.svg import Drawing, Scale
from srbench.report.model import Comparison
from srbench.report.text import interval, ratio
from srbench.stats.speedup import Speedup

_WIDTH = 460.0
_ROW = 30.0
_LEGEND_COLUMN = 92.0
_LABELS = 112.0
"""Room for the longest case name, 1024x1024x2, and for `geometric mean`."""
_NUMBERS = 54.0


def interval_chart(comparison: Comparison) -> str | None:
    """Speed-up with its 95 % interval for each case and their geometric mean, a line at 1.

    None when no case has a speed-up.
    """
    rows = [(row.case, row.speedup, published_speedup(row)) for row in comparison.rows]
    if comparison.geomean is not None and comparison.geomean_cases > 1:
        rows.append(("geometric mean", comparison.geomean, None))
    shown = [value for _, value, _ in rows if value is not None]
    if not shown:
        return None
    published = [value for _, _, value in rows if value is not None]
    ends = [end for value in shown for end in (value.low, value.high) if end is not None]
    bottom = 8 + _ROW * len(rows)
    label = f"Speed-up of {comparison.candidate} over {comparison.baseline}, 95 % intervals"
    drawing = Drawing(_WIDTH, bottom + (62 if published else 42), label)
    points = [value.value for value in shown]
    scale = Scale([1.0, *points, *ends, *published], _LABELS, _WIDTH - _NUMBERS, 6)
    for tick, text in scale.ticks():
        drawing.line(scale(tick), 4, scale(tick), bottom, "grid")
        drawing.text(scale(tick), bottom + 12, text, "label small middle")
    drawing.line(scale(1), 4, scale(1), bottom, "unity")
    drawing.text(
        (_LABELS + _WIDTH - _NUMBERS) / 2, bottom + 30, "speed-up, 95 % interval", "label middle"
    )
    for index, (name, value, reference) in enumerate(rows):
        y = 8 + _ROW * (index + 0.5)
        drawing.text(0, y, name, "label")
        if reference is not None:
            drawing.diamond(scale(reference), y, 5, "published", f"published {reference:.2f}x")
        if value is None:
            drawing.text(_WIDTH, y, "no result", "label end")
        else:
            _interval(drawing, scale, y, name, value)
    if published:
        drawing.diamond(_LABELS + 6, bottom + 50, 5, "published", "lyraDiff")
        drawing.text(
            _LABELS + 18, bottom + 50, "lyraDiff as published for this device", "label small"
        )
    return drawing.markup()


def _interval(drawing: Drawing, scale: Scale, y: float, name: str, value: Speedup) -> None:
    if value.low is not None and value.high is not None:
        low, high = scale(value.low), scale(value.high)
        drawing.line(low, y, high, y, "span")
        for end in (low, high):
            drawing.line(end, y - 4, end, y + 4, "span")
    tip = f"{name}: {ratio(value)}, 95 % {interval(value)}, {value.blocks} blocks"
    drawing.circle(scale(value.value), y, 5, "dot", tip)
    drawing.text(_WIDTH, y, ratio(value), "label end strong")


def stage_chart(comparison: Comparison) -> str | None:
    """Stacked stages of each case and arm in per cent of the case's baseline.

    None when no stage was timed.
    """
    bars = stage_bars(comparison)
    stages = named_stages([shares for _, _, shares, _ in bars])
    if not stages:
        return None
    left, right = 158.0, _WIDTH - _NUMBERS
    longest = max(sum(shares.values()) for _, _, shares, _ in bars)
    legend = [*stages, OTHER]
    per_row = int(_WIDTH // _LEGEND_COLUMN)
    gaps = len({case for case, _, _, _ in bars}) * 8
    top = 8 + 18.0 * -(-len(legend) // per_row)
    drawing = Drawing(
        _WIDTH, top + 22 * len(bars) + gaps, "Stages, per cent of the baseline's time"
    )
    for index, name in enumerate(legend):
        x, y = _LEGEND_COLUMN * (index % per_row), 9 + 18.0 * (index // per_row)
        drawing.bar(x, y - 5, 10, 10, _stage_class(name), STAGE_COLORS.get(name, OTHER_COLOR))
        drawing.text(x + 15, y, name.replace("_", " "), "label small")
    y, previous = top, ""
    for case, arm, shares, cell in bars:
        y += 8 if case != previous else 0
        if case != previous:
            drawing.text(0, y + 9, case, "label strong")
        drawing.text(left - 8, y + 9, arm, "label small end")
        small = sum(value for name, value in shares.items() if name not in stages)
        x = left
        for name in legend:
            share = small if name == OTHER else shares.get(name, 0.0)
            width = (right - left) * share / longest
            if width > 0:
                color = STAGE_COLORS.get(name, OTHER_COLOR)
                tip = f"{name.replace('_', ' ')}: {share:.1f} % of the baseline's time"
                drawing.bar(x, y, width, 18, _stage_class(name), color, tip)
            x += width
        if cell.latency is not None:
            drawing.text(x + 6, y + 9, duration(cell.latency.median), "label small")
        y, previous = y + 22, case
    return drawing.markup()


def _stage_class(name: str) -> str:
    return f"stage stage-{name.replace('_', '-')}" if name in STAGE_COLORS else "stage stage-other"


def history_chart(series: Series) -> str:
    """Speed-up of one case over the runs: points, intervals, and the levels between steps."""
    width, left, right, top, bottom = 720.0, 46.0, 712.0, 8.0, 170.0
    points = series.points
    label = f"Speed-up of {series.candidate} on {series.case} over {len(points)} runs"
    drawing = Drawing(width, bottom + 40, label, "chart wide")
    ends = [
        end
        for point in points
        for end in (point.speedup.low, point.speedup.value, point.speedup.high)
        if end is not None
    ]
    vertical = Scale(ends, bottom, top, 4)
    gap = (right - left) / len(points)
    places = [left + gap * (index + 0.5) for index in range(len(points))]
    for tick, text in vertical.ticks():
        drawing.line(left, vertical(tick), right, vertical(tick), "grid")
        drawing.text(left - 6, vertical(tick), f"{text}x", "label small end")
    for level in series.levels:
        x1, x2 = left + gap * level.start, left + gap * level.end
        drawing.line(x1, vertical(level.value), x2, vertical(level.value), "level")
        if level.start > 0:
            drawing.line(x1, top, x1, bottom, "step")
    radius = min(4.0, max(1.8, 0.3 * gap))
    for x, point in zip(places, points, strict=True):
        _history_point(drawing, vertical, x, radius, point)
    _run_labels(drawing, series, places, bottom)
    return drawing.markup()


def _history_point(
    drawing: Drawing, vertical: Scale, x: float, radius: float, point: Point
) -> None:
    value = point.speedup
    if value.low is not None and value.high is not None:
        drawing.line(x, vertical(value.low), x, vertical(value.high), "span thin")
    commit = f", commit {point.commit[:12]}" if point.commit else ""
    tip = f"{point.run_id}{commit}: {ratio(value)}, 95 % {interval(value)}"
    drawing.circle(x, vertical(value.value), radius, "dot", tip)


def _run_labels(drawing: Drawing, series: Series, places: list[float], bottom: float) -> None:
    """Dates of the first and last run and of every step that has room, commits below them."""
    free = 0.0
    last = len(places) - 1
    wanted = sorted({0, last, *(level.start for level in series.levels)})
    for index in wanted:
        x = min(max(places[index], 46.0 + 32), 712.0 - 32)
        if x - 34 < free or (index not in (0, last) and x + 34 > places[last] - 34):
            continue
        point = series.points[index]
        drawing.text(x, bottom + 14, point.started_at[:10], "label small middle")
        drawing.text(x, bottom + 28, (point.commit or "")[:8], "label small middle muted")
        free = x + 34
