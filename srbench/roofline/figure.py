"""The roofline plot: rate over ideal intensity, stages as points under the roofs of a card.

The intensity is that of the ideal traffic, as in the limits that the percentages are of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from srbench.report.figures import OTHER_COLOR, STAGE_COLORS
from srbench.roofline.limits import Limits
from srbench.roofline.model import Entry, PipelineRoofline, Roofline
from srbench.roofline.text import WHOLE

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "D", "^", "v", "P")
_STYLES = {"datasheet": "--", "measured": "-"}
_SMALL_SHARE = 0.005
_LANE = 0.055
ROOF_COLOR = "#444444"
COLORS = {**STAGE_COLORS, WHOLE: "#C00000"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One stage, or the whole image, of one pipeline.

    Attributes:
        case, arm, stage: Whose; the stage is `image` for the whole.
        flop_per_byte: Of the ideal traffic.
        tflop_per_s: Measured, or None: then only the intensity is known.
    """

    case: str
    arm: str
    stage: str
    flop_per_byte: float
    tflop_per_s: float | None


def points(roofline: Roofline) -> list[Point]:
    """Images, and their stages that hold a share of the work worth a point.

    Where a run tells times, those that it tells no time of are left out.
    """
    return [
        Point(
            case=case, arm=arm, stage=stage, flop_per_byte=entry.flop_per_byte,
            tflop_per_s=entry.tflop_per_s,
        )
        for case, arms in roofline.cases.items()
        for arm, each in arms.items()
        for stage, entry in _drawn(each).items()
        if entry.flop_per_byte
        and entry.work.flops > _SMALL_SHARE * each.whole.work.flops
        and (entry.time_ms or roofline.run_id is None)
    ]  # fmt: skip


def _drawn(pipeline: PipelineRoofline) -> dict[str, Entry]:
    return {**pipeline.stages, WHOLE: pipeline.whole}


def roofline_figure(roofline: Roofline) -> Figure | None:
    """Log-log plot, one panel a pipeline.

    Returns:
        None where there is nothing to see: no bytes were told, or neither limits nor times.
    """
    from matplotlib.figure import Figure

    found = points(roofline)
    timed = roofline.run_id is not None
    if not found or not (timed or roofline.limits):
        return None
    arms = list(dict.fromkeys(point.arm for point in found))
    cases = list(dict.fromkeys(point.case for point in found))
    figure = Figure(figsize=(1.4 + 5.0 * len(arms), 5.4), layout="constrained")
    panels = figure.subplots(1, len(arms), sharex=True, sharey=True, squeeze=False)[0]
    span = _span(found, roofline.limits)
    for axes, arm in zip(panels, arms, strict=True):
        for limits in roofline.limits:
            _draw_roof(axes, limits, span)
        own = [point for point in found if point.arm == arm]
        if timed:
            _draw_points(axes, own, cases)
        else:
            _draw_ticks(axes, own)
        axes.set(xscale="log", yscale="log")
        axes.set_title(arm, fontsize=10)
        axes.set_xlabel("FLOP per byte of ideal traffic")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(which="major", color="#EEEEEE", lw=0.6, zorder=0)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
    panels[0].set_ylabel("TFLOP/s")
    _legends(figure, found, cases if timed else [], roofline.limits)
    figure.suptitle(_title(roofline), fontsize=11)
    return figure


def _title(roofline: Roofline) -> str:
    source = (
        "no time was measured, ticks mark intensities"
        if roofline.run_id is None
        else f"times of {roofline.run_id}"
    )
    return f"Roofline, {roofline.label}; {source}"


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _span(found: list[Point], limits: Sequence[Limits]) -> tuple[float, float]:
    """Intensities from below the lowest point to beyond the ridges."""
    intensities = [point.flop_per_byte for point in found]
    intensities += [each.ridge for each in limits]
    return min(intensities) / 2, max(intensities) * 3


def _draw_roof(axes: Axes, limits: Limits, span: tuple[float, float]) -> None:
    """Memory and matrix products; other kinds by a thin line each."""
    at = sorted((*span, limits.ridge))
    rates = [min(limits.flops_per_s, limits.bytes_per_s * x) / 1e12 for x in at]
    axes.plot(at, rates, _STYLES[limits.source], color=ROOF_COLOR, zorder=2)
    others = {kind: limits.kinds[kind] for kind in ("attention", "conv") if kind in limits.kinds}
    for index, (kind, rate) in enumerate(sorted(others.items())):
        axes.plot((rate / limits.bytes_per_s, span[1]), [rate / 1e12] * 2, ls=":", lw=1.0,
                  color=ROOF_COLOR, zorder=1)  # fmt: skip
        axes.annotate(kind, (span[1], rate / 1e12), (-2 - 45 * (index % 2), 1), fontsize=7,
                      textcoords="offset points", ha="right", color=ROOF_COLOR)  # fmt: skip


def _draw_points(axes: Axes, found: list[Point], cases: list[str]) -> None:
    for point in found:
        if point.tflop_per_s is not None:
            axes.plot(
                point.flop_per_byte, point.tflop_per_s, _marker(cases.index(point.case)), ms=7,
                zorder=3, mfc=_color(point.stage), mec="black", mew=0.6, alpha=0.9,
            )  # fmt: skip


def _draw_ticks(axes: Axes, found: list[Point]) -> None:
    """Where stages lie along the roof: a lane each above the axis, its name left of its ticks."""
    across = axes.get_xaxis_transform()
    stages = dict.fromkeys(point.stage for point in found)
    for lane, stage in enumerate(stages):
        low = 0.01 + _LANE * lane
        at = [point.flop_per_byte for point in found if point.stage == stage]
        axes.vlines(at, low, low + 0.8 * _LANE, color=_color(stage), lw=1.4, transform=across)
        axes.annotate(stage, (min(at), low), (-4, 1), xycoords=across, fontsize=7, ha="right",
                      textcoords="offset points",
                      bbox={"fc": "white", "ec": "none", "pad": 0.5})  # fmt: skip


def _color(stage: str) -> str:
    return COLORS.get(stage, OTHER_COLOR)


def _marker(case: int) -> str:
    return _MARKERS[case % len(_MARKERS)]


def _legends(
    figure: Figure, found: list[Point], cases: list[str], limits: Sequence[Limits]
) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    stages = [name for name in COLORS if any(point.stage == name for point in found)]
    handles: list[Artist] = [Patch(color=COLORS[name], label=name) for name in stages]
    handles += [
        Line2D([], [], marker=_marker(index), ls="", mfc="white", mec="black", label=case)
        for index, case in enumerate(cases)
    ]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=8)
    lines = [
        Line2D(
            [], [], ls=_STYLES[each.source], color=ROOF_COLOR,
            label=f"{each.source}: {_round(each.flops_per_s / 1e12)} TFLOP/s, "
            f"{_round(each.bytes_per_s / 1e9)} GB/s",
        )
        for each in limits
    ]  # fmt: skip
    if lines:
        figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
