"""What a table of the page is: words to read, numbers to sort by."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from srbench.report.text import mebibytes, significant


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell.

    Attributes:
        text: What is shown.
        key: Number to sort by; None sorts by the text, after all numbers.
        kind: Class of its own, such as `verdict-fail`.
    """

    text: str
    key: float | None = None
    kind: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A captioned table.

    Attributes:
        caption: What it shows, in a sentence.
        header: Column titles.
        words: How many columns from the left hold words; the others are numbers, aligned right.
        rows: Sortable rows.
        foot: Rows that stay below, such as a mean.
        notes: Footnotes.
        prose: Whether the last column holds sentences, which wrap.
    """

    caption: str
    header: list[str]
    words: int
    rows: list[list[Cell]]
    foot: list[list[Cell]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    prose: bool = False


def numeric(value: float | None, text: str | None = None) -> Cell:
    """A number to three digits or as `text`, a dash where it was not measured."""
    if value is None:
        return Cell("–")
    return Cell(significant(value) if text is None else text, value)


def memory(count: int | None) -> Cell:
    """Bytes as MiB."""
    return numeric(count, mebibytes(count))


def drop_empty_columns(table: Table, since: int) -> Table:
    """The table without columns from `since` on that hold nothing but dashes."""
    kept = [
        column
        for column in range(len(table.header))
        if column < since or any(row[column].text != "–" for row in table.rows)
    ]
    return replace(
        table,
        header=[table.header[column] for column in kept],
        rows=[[row[column] for column in kept] for row in table.rows],
    )
