"""The two figures of a report: latency with speed-up by case, and the stages of each arm."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines.contract import STAGES
from srbench.report.model import ArmCell, Comparison, ReportModel, Row
from srbench.report.text import outcome, significant

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design", 2008: told apart with any colour vision.
BASELINE_COLOR = "#0072B2"
CANDIDATE_COLOR = "#E69F00"
STAGE_COLORS = {
    "preprocess": "#999999",
    "encode": "#882255",
    "degradation": "#CC79A7",
    "prompt": "#F0E442",
    "modulate": "#000000",
    "vae_encode": "#56B4E9",
    "unet": "#E69F00",
    "network": "#117733",
    "scheduler": "#5D3A9B",
    "vae_decode": "#0072B2",
    "color_fix": "#009E73",
    "postprocess": "#D55E00",
}
OTHER = "other"
OTHER_COLOR = "#DDDDDD"
_SMALL_SHARE = 0.01
_LOG_RANGE = 30.0


def latency_figure(model: ReportModel, comparison: Comparison) -> Figure:
    """Grouped bars of the median seconds an image, beside the speed-up with 95 % intervals."""
    from matplotlib.figure import Figure

    rows = comparison.rows
    width = max(8.5, 4.5 + 1.1 * len(rows))
    figure = Figure(figsize=(width, 4.2), layout="constrained")
    times, speed = figure.subplots(1, 2, width_ratios=(3, 2))
    _latency_bars(times, comparison)
    _speedup_points(speed, comparison)
    figure.suptitle(f"{comparison.candidate} against {comparison.baseline}: {model.label}")
    return figure


def stage_figure(model: ReportModel, comparison: Comparison) -> Figure | None:
    """Stacked stages of each case and arm, in per cent of that case's baseline.

    None when no stage was timed or no baseline ended well.
    """
    from matplotlib.figure import Figure

    bars = stage_bars(comparison)
    stages = named_stages([shares for _, _, shares, _ in bars])
    if not bars or not stages:
        return None
    figure = Figure(figsize=(9.5, 1.7 + 0.36 * len(bars)), layout="constrained")
    axes = figure.subplots()
    positions = _bar_positions([case for case, _, _, _ in bars])
    for position, (_, _, shares, cell) in zip(positions, bars, strict=True):
        left = 0.0
        other = sum(value for name, value in shares.items() if name not in stages)
        for name in [*stages, OTHER]:
            share = other if name == OTHER else shares.get(name, 0.0)
            color = STAGE_COLORS.get(name, OTHER_COLOR)
            axes.barh(position, share, 0.8, left, color=color, edgecolor="white", linewidth=0.4)
            left += share
        total = "" if cell.latency is None else duration(cell.latency.median)
        axes.text(left + 1, position, total, va="center", fontsize=8)
    axes.set_yticks(positions, [f"{case} {arm}" for case, arm, _, _ in bars])
    axes.invert_yaxis()
    axes.margins(y=0.02)
    axes.set_xlim(0, 1.12 * max(sum(shares.values()) for _, _, shares, _ in bars))
    axes.set_xlabel("time an image, % of the case's baseline (number: median)")
    _legend(axes, stages)
    plain(axes)
    figure.suptitle(f"Stages, {comparison.candidate}: {model.label}")
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write the figure as SVG or PNG by suffix, the same bytes for the same data."""
    with _reproducible():
        metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
        figure.savefig(path, dpi=150, metadata=metadata)


@contextmanager
def _reproducible() -> Iterator[None]:
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": "srbench", "svg.fonttype": "path"}):
        yield


def _latency_bars(axes: Axes, comparison: Comparison) -> None:
    arms = (
        (comparison.baseline, BASELINE_COLOR, [row.baseline for row in comparison.rows]),
        (comparison.candidate, CANDIDATE_COLOR, [row.candidate for row in comparison.rows]),
    )
    shown: list[float] = []
    for side, (name, color, cells) in enumerate(arms):
        heights = [_seconds(cell) for cell in cells]
        at = [column + (side - 0.5) * 0.4 for column in range(len(cells))]
        axes.bar(at, [height or 0.0 for height in heights], 0.38, color=color, label=name)
        for x, height, cell in zip(at, heights, cells, strict=True):
            if height is None:
                word = outcome(cell).partition(":")[0]
                axes.annotate(
                    word, (x, 0), (0, 4), textcoords="offset points", rotation=90, ha="center",
                    xycoords=axes.get_xaxis_transform(), fontsize=8,
                )  # fmt: skip
            else:
                axes.annotate(
                    significant(height), (x, height), (0, 2), textcoords="offset points",
                    ha="center", fontsize=7,
                )  # fmt: skip
        shown += [height for height in heights if height]
    if shown and max(shown) / min(shown) > _LOG_RANGE:
        axes.set_yscale("log")
        axes.set_ylim(min(shown) / 2, max(shown) * 2)
        axes.yaxis.set_major_formatter("{x:g}")
    else:
        axes.margins(y=0.1)
    axes.set_xticks(range(len(comparison.rows)), [row.case for row in comparison.rows])
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylabel("median time an image (s)")
    _legend_above(axes)
    plain(axes)


def _speedup_points(axes: Axes, comparison: Comparison) -> None:
    entries = [(row.case, row.speedup, published_speedup(row)) for row in comparison.rows]
    if comparison.geomean is not None and comparison.geomean_cases > 1:
        entries.append(("geomean", comparison.geomean, None))
    labelled = False
    for position, (_, value, published) in enumerate(entries):
        if published is not None:
            label = None if labelled else "lyraDiff, published"
            axes.plot(published, position, "D", mfc="none", color="#555555", ms=6, label=label)
            labelled = True
        if value is None:
            continue
        if value.low is not None and value.high is not None:
            axes.plot([value.low, value.high], [position] * 2, color=CANDIDATE_COLOR, lw=2)
        axes.plot(value.value, position, "o", color=CANDIDATE_COLOR, mec="black", mew=0.6, ms=6)
        axes.annotate(
            f"{value.value:.2f}x", (value.value, position), (0, 7), textcoords="offset points",
            ha="center", fontsize=8,
        )  # fmt: skip
    axes.axvline(1.0, color="black", lw=0.8, ls="--")
    axes.set_yticks(range(len(entries)), [name for name, _, _ in entries])
    axes.set_ylim(len(entries) - 0.5, -0.7)
    axes.set_xlim(left=min(0.9, axes.get_xlim()[0]))
    axes.margins(x=0.12)
    axes.set_xlabel("speed-up, 95 % interval")
    axes.tick_params(labelsize=8)
    if labelled:
        _legend_above(axes)
    plain(axes)


def published_speedup(row: Row) -> float | None:
    """What was published for this case and device: original over lyraDiff."""
    if row.published_original_s is None or not row.published_lyradiff_s:
        return None
    return row.published_original_s / row.published_lyradiff_s


def stage_bars(comparison: Comparison) -> list[tuple[str, str, dict[str, float], ArmCell]]:
    """(case, role, stage -> per cent of the baseline's median, cell) of both arms, by case."""
    bars = []
    for row, role, cell in comparison.cells():
        base = row.baseline.latency
        if base is None or cell.latency is None or not cell.stages_ms:
            continue
        shares = {name: 100 * time / base.median for name, time in cell.stages_ms.items()}
        rest = 100 * cell.latency.median / base.median - sum(shares.values())
        bars.append((row.case, role, shares | {OTHER: max(0.0, rest)}, cell))
    return bars


def named_stages(bars: list[dict[str, float]]) -> list[str]:
    """Stages worth a colour of their own: 1 % of some bar, in execution order."""
    found = {
        name
        for shares in bars
        for name, share in shares.items()
        if name != OTHER and share >= _SMALL_SHARE * sum(shares.values())
    }
    return [name for name in STAGES if name in found]


def _bar_positions(cases: list[str]) -> list[float]:
    """Neighbouring bars of one case, half a bar of air between cases."""
    positions: list[float] = []
    for index, case in enumerate(cases):
        gap = 0.5 if index and case != cases[index - 1] else 0.0
        positions.append(positions[-1] + 1 + gap if positions else 0.0)
    return positions


def _legend(axes: Axes, stages: list[str]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(color=STAGE_COLORS[name], label=name) for name in stages]
    handles.append(Patch(color=OTHER_COLOR, label=OTHER))
    axes.legend(
        handles=handles, frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5)
    )


def _legend_above(axes: Axes) -> None:
    axes.legend(frameon=False, fontsize=8, ncols=2, loc="lower left", bbox_to_anchor=(0, 1))


def plain(axes: Axes) -> None:
    """Without the frame's upper and right side."""
    axes.spines[["top", "right"]].set_visible(False)


def _seconds(cell: ArmCell) -> float | None:
    if cell.outcome != "ok" or cell.latency is None:
        return None
    return cell.latency.median / 1000


def duration(milliseconds: float) -> str:
    """`840 ms`, `1.52 s`."""
    if milliseconds < 1000:
        return f"{significant(milliseconds)} ms"
    return f"{significant(milliseconds / 1000)} s"
