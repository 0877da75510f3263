"""The figure of a ladder: seconds falling rung by rung, and the fidelity that each rung costs."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from srbench.report.figures import BASELINE_COLOR, CANDIDATE_COLOR, plain
from srbench.report.ladder import LadderCase, Standing
from srbench.report.text import outcome, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from srbench.records import FidelityRecord

# Okabe and Ito, as in the other figures.
GAIN_COLOR = "#009E73"
LOSS_COLOR = "#D55E00"
PREDICTED_COLOR = "#555555"
_LABEL_LETTERS = 52
_BELOW_TEXT = 0.29
_LOG_RANGE = 8.0
"""Where the first arm takes longer by this factor, gains of the last rungs would be hairlines."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the figure.

    Attributes:
        standing: The arm.
        start: Seconds where its bar begins, of the last arm that was timed; None draws a bar from
            the axis on.
        label: Beside the axis.
    """

    standing: Standing
    start: float | None
    label: str


def waterfall_lines(ladder: LadderCase) -> list[Line]:
    """The arms from top to bottom, and behind the last default one what all amount to."""
    defaults = [each for each in ladder.standings if not each.arm.on_top]
    timed = [each for each in defaults if each.seconds is not None]
    lines: list[Line] = []
    level: float | None = None
    for each in ladder.standings:
        lines.append(Line(each, level, _label(each)))
        level = each.seconds if each.seconds is not None else level
        if each is defaults[-1] and len(timed) > 1:
            lines.append(Line(timed[-1], None, f"up to {timed[-1].arm.name}"))
    return lines


def waterfall_figure(ladder: LadderCase, label: str) -> Figure | None:
    """Floating bars of seconds, a line a rung, beside the PSNR of each; None without any time."""
    from matplotlib.figure import Figure

    lines = waterfall_lines(ladder)
    if not any(line.standing.seconds is not None for line in lines):
        return None
    judged = any("psnr" in each.metrics for line in lines for each in _records(line.standing))
    figure = Figure(figsize=(11.5, 1.9 + 0.3 * len(lines)), layout="constrained")
    if judged:
        time, fidelity = figure.subplots(1, 2, sharey=True, width_ratios=(5, 2))
        _fidelity(fidelity, lines)
    else:
        time = figure.subplots()
    _seconds(time, lines)
    time.set_yticks(range(len(lines)), [line.label for line in lines], fontsize=8)
    time.set_ylim(len(lines) - 0.4, -0.6)
    figure.suptitle(f"Ladder of {ladder.case}: {label}")
    return figure


def _label(standing: Standing) -> str:
    arm = standing.arm
    title = textwrap.shorten(arm.title, _LABEL_LETTERS, placeholder="…")
    return f"{title}  {arm.name}" if arm.rung else arm.name


def _seconds(axes: Axes, lines: list[Line]) -> None:
    known = [line.standing.seconds for line in lines if line.standing.seconds is not None]
    predicted = [
        line.standing.predicted_s for line in lines if line.standing.predicted_s is not None
    ]
    least, most = min(known + predicted), max(known + predicted)
    logarithmic = most > _LOG_RANGE * least
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(least / 1.6, most * 2.2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if _leads(x) in (2, 5) else "")
    else:
        axes.set_xlim(0, 1.28 * most)
    edge = axes.get_xlim()[0]
    for y, line in enumerate(lines):
        _bar(axes, y, line, edge)
        if y + 1 < len(lines) and (below := lines[y + 1].start) is not None:
            axes.plot([below, below], [y + 0.36, y + 0.64], color="#888888", lw=0.8)
    _predictions(axes, lines)
    axes.set_xlabel(f"median time an image (s{', log scale' if logarithmic else ''})")
    axes.tick_params(axis="x", which="both", labelsize=8)
    _legend(axes, lines)
    plain(axes)


def _leads(value: float) -> int:
    return int(f"{value:e}"[0])


def _bar(axes: Axes, y: int, line: Line, edge: float) -> None:
    standing, seconds = line.standing, line.standing.seconds
    if seconds is None:
        at = edge if line.start is None else line.start
        word = outcome(standing.cell).partition(":")[0]
        _note(axes, at, y, word, LOSS_COLOR)
        return
    start = edge if line.start is None else line.start
    color = _color(line, y)
    hatch, edgecolor = ("////", "white") if standing.arm.on_top else (None, color)
    axes.barh(
        y, seconds - start, 0.72, start, color=color, edgecolor=edgecolor, lw=0.8,
        hatch=hatch,
    )  # fmt: skip
    text = f"{significant(seconds)} s"
    if line.start is not None and standing.over_before is not None:
        gain = standing.over_before
        text += f"   {gain.value:.2f}x"
        if gain.low is not None and gain.high is not None:
            ends = [line.start / gain.high, line.start / gain.low]
            axes.plot(ends, [y + _BELOW_TEXT] * 2, color="black", lw=1.0)
    _note(axes, max(start, seconds, standing.predicted_s or 0.0), y, text, "black")


def _color(line: Line, y: int) -> str:
    if line.start is None:
        return BASELINE_COLOR if y == 0 else CANDIDATE_COLOR
    seconds = line.standing.seconds
    return GAIN_COLOR if seconds is None or seconds <= line.start else LOSS_COLOR


def _note(axes: Axes, x: float, y: int, text: str, color: str) -> None:
    axes.annotate(
        text, (x, y), (5, 0), textcoords="offset points", va="center", fontsize=7.5, color=color
    )


def _predictions(axes: Axes, lines: list[Line]) -> None:
    points = [
        (line.standing.predicted_s, y)
        for y, line in enumerate(lines)
        if line.standing.predicted_s is not None and (line.start is not None or y == 0)
    ]
    if points:
        axes.plot(
            *zip(*points, strict=True), "D", mfc="none", color=PREDICTED_COLOR, ms=5,
            label="predicted, not measured",
        )  # fmt: skip


def _legend(axes: Axes, lines: list[Line]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    steps = [line for line in lines if line.start is not None and line.standing.seconds is not None]
    colors = {_color(line, 1) for line in steps}
    handles: list[Patch | Line2D] = [
        Patch(color=color, label=label)
        for color, label in ((GAIN_COLOR, "faster"), (LOSS_COLOR, "slower"))
        if color in colors
    ]
    if any(line.standing.over_before and line.standing.over_before.low for line in steps):
        handles.append(Line2D([], [], color="black", lw=1.1, label="95 % interval of the gain"))
    handles += [each for each in axes.get_lines() if each.get_label() == "predicted, not measured"]
    axes.legend(
        handles=handles, frameon=False, fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1)
    )


def _records(standing: Standing) -> list[FidelityRecord]:
    found = (standing.likeness, standing.change, standing.exactness)
    return [record for record in found if record is not None]


def _fidelity(axes: Axes, lines: list[Line]) -> None:
    arms = [(y, line.standing) for y, line in enumerate(lines) if line.start is not None or y == 0]
    bottom = lines[0].standing.arm.name
    series = (
        (f"to {bottom}", "o", BASELINE_COLOR, [(y, each.likeness) for y, each in arms]),
        ("to the one before", "o", "none", [(y, each.change) for y, each in arms]),
        ("to fp32", "s", LOSS_COLOR, [(y, each.exactness) for y, each in arms]),
    )
    for label, marker, fill, records in series:
        points = [
            (record.metrics["psnr"], y)
            for y, record in records
            if record is not None and "psnr" in record.metrics
        ]
        if points:
            axes.plot(
                *zip(*points, strict=True), marker, mfc=fill, mec="#333333", mew=0.8, ms=5,
                label=label,
            )  # fmt: skip
    axes.set_xlabel("PSNR of the 8-bit picture (dB)")
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color="#EEEEEE", lw=0.6)
    axes.margins(x=0.1)
    axes.legend(frameon=False, fontsize=8, ncols=1, loc="lower left", bbox_to_anchor=(0, 1))
    plain(axes)
