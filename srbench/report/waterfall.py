"""The figure of a ladder: seconds falling rung by rung, and the fidelity that each rung costs."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from srbench.report.figures import BASELINE_COLOR, CANDIDATE_COLOR, plain
from srbench.report.ladder import NOT_DECIDED, OVER_BEFORE, LadderCase, Standing
from srbench.report.text import outcome, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from srbench.records import FidelityRecord

# Okabe and Ito, as in the other figures.
GAIN_COLOR = "#009E73"
LOSS_COLOR = "#D55E00"
UNDECIDED_COLOR = "#BBBBBB"
PREDICTED_COLOR = "#555555"
COLORS = {"faster": GAIN_COLOR, "slower": LOSS_COLOR, NOT_DECIDED: UNDECIDED_COLOR}
_LABEL_LETTERS = 44
_LEAST_DECIBELS = 10.0
"""Range of the axis of PSNR: less would show noise as steps."""

_GOOD_DECIBELS = 40.0
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
    figure = Figure(figsize=(12.5, 2.1 + 0.32 * len(lines)), layout="constrained")
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
    if not arm.rung:
        return arm.name
    lines = textwrap.wrap(arm.title, _LABEL_LETTERS, max_lines=2, placeholder="…")
    return "\n".join(lines) + f"  {arm.name}"


def _seconds(axes: Axes, lines: list[Line]) -> None:
    known = [line.standing.seconds for line in lines if line.standing.seconds is not None]
    predicted = [
        line.standing.predicted_s for line in lines if line.standing.predicted_s is not None
    ]
    least, most = min(known + predicted), max(known + predicted)
    logarithmic = most > _LOG_RANGE * least
    if logarithmic:
        axes.set_xscale("log")
        axes.set_xlim(least / 1.6, most * 1.3)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(lambda x, _: f"{x:g}" if _leads(x) in (2, 5) else "")
    else:
        axes.set_xlim(0, 1.08 * most)
    for y, line in enumerate(lines):
        _bar(axes, y, line)
        _whisker(axes, y, line)
        _note(axes, y, line)
        if y + 1 < len(lines) and (below := lines[y + 1].start) is not None:
            axes.plot([below, below], [y + 0.36, y + 0.64], color="#888888", lw=0.8)
    _predictions(axes, lines)
    axes.set_xlabel(f"median time an image (s{', log scale' if logarithmic else ''})")
    axes.tick_params(axis="x", which="both", labelsize=8)
    _legend(axes, lines)
    plain(axes)


def _leads(value: float) -> int:
    return int(f"{value:e}"[0])


def _bar(axes: Axes, y: int, line: Line) -> None:
    seconds = line.standing.seconds
    if seconds is None:
        return
    start = axes.get_xlim()[0] if line.start is None else line.start
    color = _color(line, y)
    hatch, edgecolor = ("////", "white") if line.standing.arm.on_top else (None, color)
    axes.barh(
        y, seconds - start, 0.72, start, color=color, edgecolor=edgecolor, lw=0.8,
        hatch=hatch,
    )  # fmt: skip


def _color(line: Line, y: int) -> str:
    if line.start is None:
        return BASELINE_COLOR if y == 0 else CANDIDATE_COLOR
    return COLORS[line.standing.verdict or NOT_DECIDED]


def _whisker(axes: Axes, y: int, line: Line) -> None:
    """Where the bar may end by the interval of its gain, with an arrow where the axis ends."""
    gain = line.standing.over_before
    if line.start is None or gain is None or gain.low is None or gain.high is None:
        return
    left, right = axes.get_xlim()
    low, high = line.start / gain.high, line.start / gain.low
    ends = [max(low, left), min(high, right)]
    axes.plot(ends, [y, y], color="black", lw=1.0)
    marks = ("<" if low < left else "|", ">" if high > right else "|")
    for end, mark in zip(ends, marks, strict=True):
        axes.plot([end], [y], mark, color="black", ms=4, mew=1.0, clip_on=False)


def _note(axes: Axes, y: int, line: Line) -> None:
    """Beside the axis, where no bar and no whisker is in the way."""
    standing, color = line.standing, "black"
    if standing.seconds is None:
        text, color = outcome(standing.cell).partition(":")[0], LOSS_COLOR
    else:
        text = f"{significant(standing.seconds)} s"
        if line.start is not None and standing.over_before is not None:
            text = f"{text:<9}{standing.over_before.value:>6.2f}x"
    axes.annotate(
        text, (1, y), (9, 0), ("axes fraction", "data"), "offset points", va="center",
        fontsize=7.5, color=color, family="monospace",
    )  # fmt: skip


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

    timed = [(y, line) for y, line in enumerate(lines) if line.standing.seconds is not None]
    steps = [line.standing for _, line in timed if line.start is not None]
    handles: list[Patch | Line2D] = [
        Patch(color=_color(line, y), label=f"the whole time of {line.standing.arm.name}")
        for y, line in timed
        if line.start is None
    ]
    known = any(each.over_before and each.over_before.low is not None for each in steps)
    why = "the interval covers 1" if known else "one block has no interval"
    handles += [
        Patch(color=color, label=f"{NOT_DECIDED}: {why}" if verdict == NOT_DECIDED else verdict)
        for verdict, color in COLORS.items()
        if any(each.verdict == verdict for each in steps)
    ]
    if any(each.arm.on_top for each in steps):
        handles.append(
            Patch(facecolor="#888888", edgecolor="white", hatch="////", label="not a default")
        )
    if known:
        label = f"95 % interval {OVER_BEFORE.lower()}"
        handles.append(Line2D([], [], color="black", lw=1.0, marker="|", label=label))
    handles += [each for each in axes.get_lines() if each.get_label() == "predicted, not measured"]
    axes.legend(
        handles=handles,
        frameon=False,
        fontsize=7.5,
        ncols=3,
        loc="lower left",
        bbox_to_anchor=(0, 1),
    )
    axes.annotate(
        textwrap.fill(OVER_BEFORE, 12), (1, 1), (54, 2), "axes fraction", "offset points",
        va="bottom", fontsize=7.5,
    )  # fmt: skip


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
    decibels = []
    for label, marker, fill, records in series:
        points = [
            (record.metrics["psnr"], y)
            for y, record in records
            if record is not None and "psnr" in record.metrics
        ]
        decibels += [psnr for psnr, _ in points]
        if points:
            axes.plot(
                *zip(*points, strict=True), marker, mfc=fill, mec="#333333", mew=0.8, ms=5,
                label=label,
            )  # fmt: skip
    axes.set_xlabel("PSNR of the 8-bit picture (dB)")
    axes.tick_params(axis="x", labelsize=8)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", color="#EEEEEE", lw=0.6)
    _decibel_range(axes, min(decibels), max(decibels))
    axes.legend(frameon=False, fontsize=8, ncols=1, loc="lower left", bbox_to_anchor=(0, 1))
    plain(axes)


def _decibel_range(axes: Axes, least: float, most: float) -> None:
    middle, reach = (least + most) / 2, max(most - least, _LEAST_DECIBELS) * 0.55
    axes.set_xlim(middle - reach, middle + reach)
    if middle - reach <= _GOOD_DECIBELS <= middle + reach:
        label = f"{_GOOD_DECIBELS:g} dB"
        axes.axvline(_GOOD_DECIBELS, color="#888888", ls="--", lw=0.8, label=label)
