"""A ladder for a terminal."""

from __future__ import annotations

from srbench.report.html.ladders import ladder_table
from srbench.report.ladder import OVER_BEFORE, LadderCase
from srbench.report.tables import plain_table

_NOT_ON_TERMINAL = ("Options", "MAD s", "Worst block dB")
_SHORT = {
    "Time cost(s)": "s",
    OVER_BEFORE: OVER_BEFORE.lower(),
    "95 % interval": "95 %",
    "Over the baseline": "over baseline",
    "Predicted s": "predicted s",
    "Predicted / measured": "pred/meas",
    "PSNR dB to the one before": "to the one before",
    "PSNR dB to fp32": "to fp32",
}


def ladder_text(ladders: list[LadderCase], label: str) -> str:
    """The tables for a terminal, without the options."""
    parts = []
    for ladder in ladders:
        table = ladder_table(ladder, label)
        kept = [
            column for column, title in enumerate(table.header) if title not in _NOT_ON_TERMINAL
        ]
        rows = [[row[column].text for column in kept] for row in table.rows]
        header = [_SHORT.get(title, title) for title in (table.header[column] for column in kept)]
        parts.append("\n".join([table.caption, plain_table(header, rows, left=2), *table.notes]))
    return "\n\n".join(parts)
