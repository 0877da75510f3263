"""The roofline plot: rate over intensity, stages as points under the roofs of a card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from srbench.report.figures import OTHER_COLOR, STAGE_COLORS
from srbench.roofline.limits import Limits
from srbench.roofline.model import Roofline

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = ("o", "s", "D", "^", "v", "P")
_STYLES = ("--", "-", "-.", ":")
_SMALL_SHARE = 0.005
ROOF_COLOR = "#444444"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One stage of one pipeline.

    Attributes:
        case, arm, stage: Whose.
        flop_per_byte: As launched.
        tflop_per_s: Measured, or None: then the point lies on the roof, hollow.
    """

    case: str
    arm: str
    stage: str
    flop_per_byte: float
    tflop_per_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Roof:
    """What a card can do, drawn in one line style."""

    label: str
    limits: Limits
    style: str


def points(roofline: Roofline) -> list[Point]:
    """Stages that hold a share of an image's work worth a point."""
    return [
        Point(
            case=case, arm=arm, stage=stage, flop_per_byte=entry.flop_per_byte,
            tflop_per_s=entry.tflop_per_s,
        )
        for case, arms in roofline.cases.items()
        for arm, each in arms.items()
        for stage, entry in each.stages.items()
        if entry.flop_per_byte and entry.work.flops > _SMALL_SHARE * each.whole.work.flops
    ]  # fmt: skip


def roofline_figure(roofline: Roofline, others: dict[str, Limits]) -> Figure | None:
    """Log-log plot, one panel a pipeline; None where no pipeline told its bytes.

    Args:
        roofline: What is drawn.
        others: Card -> limits, drawn where the profile has none of its own.
    """
    from matplotlib.figure import Figure

    found = points(roofline)
    if not found:
        return None
    arms = list(dict.fromkeys(point.arm for point in found))
    cases = list(dict.fromkeys(point.case for point in found))
    roofs = _roofs(roofline, others)
    figure = Figure(figsize=(1.4 + 5.0 * len(arms), 5.4), layout="constrained")
    panels = figure.subplots(1, len(arms), sharex=True, sharey=True, squeeze=False)[0]
    span = _span(found, roofs)
    for axes, arm in zip(panels, arms, strict=True):
        for roof in roofs:
            _draw_roof(axes, roof, span)
        _draw_points(axes, [point for point in found if point.arm == arm], cases, roofs)
        axes.set_title(arm, fontsize=10)
        axes.set_xlabel("FLOP per byte, as launched")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(which="major", color="#EEEEEE", lw=0.6, zorder=0)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_major_formatter("{x:g}")
    panels[0].set_ylabel("TFLOP/s")
    _legends(figure, found, cases, roofs)
    figure.suptitle(_title(roofline), fontsize=11)
    return figure


def _title(roofline: Roofline) -> str:
    source = (
        "hollow: no time was measured, drawn on the lowest roof"
        if roofline.run_id is None
        else f"times of {roofline.run_id}"
    )
    return f"Roofline, {roofline.title}, {roofline.precision}; {source}"


def _roofs(roofline: Roofline, others: dict[str, Limits]) -> list[Roof]:
    named = {each.source: each for each in roofline.limits} or others
    return [
        Roof(
            label=f"{name}: {_round(limits.flops_per_s / 1e12)} TFLOP/s, "
            f"{_round(limits.bytes_per_s / 1e9)} GB/s",
            limits=limits,
            style=_STYLES[index % len(_STYLES)],
        )
        for index, (name, limits) in enumerate(named.items())
    ]


def _round(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _span(found: list[Point], roofs: list[Roof]) -> tuple[float, float]:
    """Intensities from below the lowest point to beyond the ridges."""
    intensities = [point.flop_per_byte for point in found]
    intensities += [roof.limits.ridge for roof in roofs]
    return min(intensities) / 2, max(intensities) * 3


def _draw_roof(axes: Axes, roof: Roof, span: tuple[float, float]) -> None:
    limits = roof.limits
    at = sorted((*span, limits.ridge))
    axes.loglog(at, [_attainable(limits, x) for x in at], roof.style, color=ROOF_COLOR, zorder=2)
    for index, (kind, rate) in enumerate(sorted(limits.kinds.items())):
        if rate < limits.flops_per_s:
            axes.loglog((rate / limits.bytes_per_s, span[1]), [rate / 1e12] * 2, lw=0.8, ls=":",
                        color=ROOF_COLOR, zorder=1)  # fmt: skip
            axes.annotate(kind, (span[1], rate / 1e12), (-2 - 40 * (index % 2), 1), fontsize=7,
                          textcoords="offset points", ha="right", color=ROOF_COLOR)  # fmt: skip


def _attainable(limits: Limits, flop_per_byte: float) -> float:
    """TFLOP/s under the roof."""
    return min(limits.flops_per_s, limits.bytes_per_s * flop_per_byte) / 1e12


def _draw_points(axes: Axes, found: list[Point], cases: list[str], roofs: list[Roof]) -> None:
    for point in found:
        color = STAGE_COLORS.get(point.stage, OTHER_COLOR)
        rate = point.tflop_per_s
        if rate is None and roofs:
            rate = min(_attainable(roof.limits, point.flop_per_byte) for roof in roofs)
        if rate is None:
            continue
        measured = point.tflop_per_s is not None
        axes.loglog(
            point.flop_per_byte, rate, _marker(cases.index(point.case)), ms=7, zorder=3,
            mfc=color if measured else "white", mec="black" if measured else color,
            mew=0.6 if measured else 1.6, alpha=0.9,
        )  # fmt: skip


def _marker(case: int) -> str:
    return _MARKERS[case % len(_MARKERS)]


def _legends(figure: Figure, found: list[Point], cases: list[str], roofs: list[Roof]) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    stages = [name for name in STAGE_COLORS if any(point.stage == name for point in found)]
    handles: list[Artist] = [Patch(color=STAGE_COLORS[name], label=name) for name in stages]
    handles += [
        Line2D([], [], marker=_marker(index), ls="", mfc="white", mec="black", label=case)
        for index, case in enumerate(cases)
    ]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=8)
    lines = [Line2D([], [], ls=roof.style, color=ROOF_COLOR, label=roof.label) for roof in roofs]
    if lines:
        figure.legend(handles=lines, loc="outside lower center", ncols=2, frameon=False, fontsize=8)
