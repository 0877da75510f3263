"""The combined report's tables: one over all cards, what broke, and how far nodes are apart."""

from __future__ import annotations

from collections.abc import Sequence

from srbench.report.cards.model import Broken, Card, CardArm, CardCell, Cards, CardTable
from srbench.report.cards.ratio import Ratio
from srbench.report.html.table import Cell, Table, numeric
from srbench.report.tables import decibels, plain_table
from srbench.report.text import mebibytes, outcome_word, significant

_MOST_BROKEN = 200
"""Rows of what broke: a fleet can break in more ways than anybody reads."""
_MOST_IDS = 3


def case_table(cards: Cards, table: CardTable, label: str) -> Table:
    """A row a case: the speed-ups side by side, then each card's times, memory and fidelity."""
    names = [card.profile.name for card in cards.cards]
    header = ["Case", *(f"{name} Speed Up" for name in names)]
    for name in names:
        header += [f"{name} {role} s" for role in table.roles]
        header += [f"{name} Peak MiB", f"{name} PSNR dB (worst block)"]
    rows = [
        [
            Cell(case),
            *(_ratio_cell(by_card[name].ratio if name in by_card else None) for name in names),
            *(cell for name in names for cell in _card_cells(by_card.get(name))),
        ]
        for case, by_card in table.cells.items()
    ]
    foot = []
    if len(table.geomean_cases) > 1:
        means = [_ratio_cell(table.geomean.get(name)) for name in names]
        blanks = [Cell("")] * (len(header) - 1 - len(names))
        foot.append([Cell(f"Geometric mean of {len(table.geomean_cases)}"), *means, *blanks])
    return Table(
        caption=f"{table.candidate} against {table.baseline} on {', '.join(names)}; {label}",
        header=header,
        words=1,
        rows=rows,
        foot=foot,
        notes=[*table.remarks, *reading(cards)],
    )


def reading(cards: Cards) -> list[str]:
    """How the table's ratios are read, as far as the cards at hand need it."""
    several = [card for card in cards.cards if len(card.digests) > 1]
    notes = [
        "Times are medians; peak memory is of baseline / candidate, the highest of any run; the "
        "geometric mean is over the cases that all cards have."
    ]
    if len(several) < len(cards.cards):
        notes.append("(a–b): 95 % interval over the blocks of one run.")
    if several:
        notes.append(
            "[a–b, n nodes]: the median over n machines of one card and their range; machines are "
            "no blocks of one another and are not pooled."
        )
    return notes


def node_table(cards: Cards, table: CardTable) -> Table | None:
    """How far the machines of each card are apart; None where every card has one run."""
    rows = [
        [Cell(card.profile.name), Cell(case), *_spread(ratio)]
        for card in cards.cards
        for case, ratio in _ratios(card, table)
        if ratio.over
    ]
    return Table(
        caption=f"Speed-up of {table.candidate} between the machines of a card",
        header=["Card", "Case", "Over", "Median", "Lowest", "Highest", "Standard deviation %"],
        words=2,
        rows=rows,
    ) if rows else None  # fmt: skip


def broken_table(broken: Sequence[Broken]) -> Table | None:
    """Cells without a result, with the runs it happened in; None when all ended well."""
    rows = [
        [
            Cell(each.profile),
            Cell(each.case),
            Cell(each.pipeline),
            Cell(outcome_word(each.outcome), kind="verdict verdict-error"),
            Cell(str(len(each.run_ids)), len(each.run_ids)),
            Cell(", ".join(each.run_ids[:_MOST_IDS]) + (", …" * (len(each.run_ids) > _MOST_IDS))),
            Cell(each.reason),
        ]
        for each in broken[:_MOST_BROKEN]
    ]
    rest = len(broken) - len(rows)
    return Table(
        caption="Cells without a result",
        header=["Card", "Case", "Arm", "Outcome", "In runs", "Which", "Reason"],
        words=7,
        rows=rows,
        notes=[f"{rest} more are not shown."] if rest else [],
        prose=True,
    ) if rows else None  # fmt: skip


def console_tables(cards: Cards, table: CardTable) -> str:
    """For a terminal: the ratios side by side, then times, memory and fidelity case by case."""
    names = [card.profile.name for card in cards.cards]
    ratios = [
        [case, *(_ratio_text(by[name].ratio) if name in by else "–" for name in names)]
        for case, by in table.cells.items()
    ]
    if len(table.geomean_cases) > 1:
        mean = f"geomean of {len(table.geomean_cases)}"
        ratios.append([mean, *(_ratio_text(table.geomean.get(name)) for name in names)])
    details = [
        [case, name, *_details(by[name])]
        for case, by in table.cells.items()
        for name in names
        if name in by
    ]
    header = ["case", "card", *(f"{role} s" for role in table.roles), "peak MiB", "PSNR dB"]
    return "\n".join(
        [
            f"speed-up of {table.candidate} over {table.baseline}",
            plain_table(["case", *names], ratios),
            "",
            plain_table([*header, "worst block dB"], details, left=2),
            *table.remarks,
        ]
    )


def _card_cells(cell: CardCell | None) -> list[Cell]:
    if cell is None:
        return [Cell("–")] * 4
    psnr = decibels(cell.worst, "psnr")
    worst = decibels(cell.worst, "worst_block_psnr")
    likeness = None if cell.worst is None else cell.worst.metrics.get("psnr")
    peaks = f"{mebibytes(cell.baseline.peak_bytes)} / {mebibytes(cell.candidate.peak_bytes)}"
    return [
        Cell(_time(cell.baseline), cell.baseline.seconds),
        Cell(_time(cell.candidate), cell.candidate.seconds),
        Cell("–" if peaks == "– / –" else peaks, cell.candidate.peak_bytes),
        Cell(psnr if psnr == worst else f"{psnr} ({worst})", likeness),
    ]


def _details(cell: CardCell) -> list[str]:
    peaks = f"{mebibytes(cell.baseline.peak_bytes)} / {mebibytes(cell.candidate.peak_bytes)}"
    likeness = [decibels(cell.worst, metric) for metric in ("psnr", "worst_block_psnr")]
    return [_time(cell.baseline), _time(cell.candidate), peaks, *likeness]


def _time(arm: CardArm) -> str:
    """Seconds, and every outcome that stands beside them or in their place."""
    words = []
    for outcome, runs in arm.broken.items():
        some = f" in {runs} of {arm.runs} runs" if arm.runs > 1 else ""
        words.append(outcome_word(outcome) + some)
    whole = arm.seconds is not None and sum(arm.broken.values()) < arm.runs
    known = [significant(arm.seconds)] if whole and arm.seconds is not None else []
    return ", ".join([*known, *words]) or "not measured"


def _ratio_cell(ratio: Ratio | None) -> Cell:
    return Cell(_ratio_text(ratio), None if ratio is None else ratio.value)


def _ratio_text(ratio: Ratio | None) -> str:
    if ratio is None:
        return "–"
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.2f}x (n/a, 1 block)"
    ends = f"{ratio.low:.2f}–{ratio.high:.2f}"
    if ratio.over:
        return f"{ratio.value:.2f}x [{ends}, {ratio.count} {ratio.over}]"
    return f"{ratio.value:.2f}x ({ends})"


def _ratios(card: Card, table: CardTable) -> list[tuple[str, Ratio]]:
    name = card.profile.name
    found = [(case, by[name].ratio) for case, by in table.cells.items() if name in by]
    if len(table.geomean_cases) > 1:
        found.append(("geometric mean", table.geomean.get(name)))
    return [(case, ratio) for case, ratio in found if ratio is not None]


def _spread(ratio: Ratio) -> list[Cell]:
    spread = None if ratio.deviation is None else 100 * ratio.deviation
    return [
        Cell(f"{ratio.count} {ratio.over}", ratio.count),
        *(numeric(value, f"{value:.3f}x") for value in (ratio.value, ratio.low, ratio.high)),
        numeric(spread),
    ]
