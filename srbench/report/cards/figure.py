"""The combined report's figure: the speed-up of every case, the cards beneath one another."""

from __future__ import annotations

from typing import TYPE_CHECKING

from srbench.report.cards.model import Cards, CardTable
from srbench.report.cards.ratio import Ratio
from srbench.report.figures import plain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito, "Color Universal Design", 2008; the marker tells cards apart without any colour.
_STYLES = (
    ("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "D"), ("#CC79A7", "^"), ("#56B4E9", "v"),
    ("#D55E00", "P"), ("#000000", "X"), ("#F0E442", "p"),
)  # fmt: skip


def speedup_figure(cards: Cards, table: CardTable, label: str) -> Figure | None:
    """Ratios with their intervals or ranges, one row a case; None when no case has one."""
    from matplotlib.figure import Figure

    rows = [(case, {name: cell.ratio for name, cell in by.items()}) for case, by in
            table.cells.items()]  # fmt: skip
    if len(table.geomean_cases) > 1:
        rows.append(("geometric mean", dict(table.geomean)))
    if not any(ratio for _, by_card in rows for ratio in by_card.values()):
        return None
    names = [card.profile.name for card in cards.cards]
    lane = min(0.16, 0.8 / len(names))
    figure = Figure(
        figsize=(9.0, 1.6 + len(rows) * max(0.4, 0.22 * len(names))), layout="constrained"
    )
    axes = figure.subplots()
    for index, name in enumerate(names):
        color, marker = _STYLES[index % len(_STYLES)]
        offset = (index - (len(names) - 1) / 2) * lane
        axes.plot([], [], marker, color=color, mec="black", mew=0.5, ms=6, label=name)
        for position, (_, by_card) in enumerate(rows):
            if (ratio := by_card.get(name)) is not None:
                _point(axes, ratio, position + offset, color, marker)
    axes.axvline(1.0, color="black", lw=0.8, ls="--")
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(left=min(0.9, axes.get_xlim()[0]))
    axes.set_xlabel("speed-up; bars: 95 % interval of one run, range over several nodes or runs")
    axes.tick_params(labelsize=8)
    axes.legend(
        frameon=False, fontsize=8, ncols=len(names), loc="lower left", bbox_to_anchor=(0, 1)
    )
    plain(axes)
    figure.suptitle(f"{table.candidate} against {table.baseline}: {label}")
    return figure


def _point(axes: Axes, ratio: Ratio, y: float, color: str, marker: str) -> None:
    if ratio.low is not None and ratio.high is not None:
        axes.plot([ratio.low, ratio.high], [y, y], color=color, lw=2, alpha=0.8)
    axes.plot(ratio.value, y, marker, color=color, mec="black", mew=0.5, ms=6)
    axes.annotate(
        f"{ratio.value:.2f}x", (ratio.high or ratio.value, y), (6, 0), textcoords="offset points",
        va="center", fontsize=7,
    )  # fmt: skip
