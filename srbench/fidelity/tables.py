"""An evaluation as text: the table of a terminal, CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from srbench.fidelity.candidates import ALPHA, Comparison, Verdict
from srbench.fidelity.evaluate import PAIRING, Evaluation
from srbench.outcome import one_line


def console_lines(found: Evaluation, comparison: Comparison | None = None) -> Iterator[str]:
    """Pictures, their mean, and what exactly was computed, values to four decimals."""
    names = [*found.images[0].metrics, *found.folders.metrics]
    rows = list(_rows(found))
    width = max(len(label) for label, _ in rows)
    columns = [max(10, len(name)) for name in names]
    yield _aligned("", width, names, columns)
    for label, values in rows:
        yield _aligned(label, width, [_shown(values.get(name)) for name in names], columns)
    for metric, provider in found.providers.items():
        yield f"{metric}: {provider}"
    yield from _remarks(found)
    if comparison is not None:
        yield ""
        yield from (_judged(verdict) for verdict in comparison.metrics.values())
        yield comparison.line()


def csv_text(found: Evaluation) -> str:
    """A line a picture, values unrounded; empty where there is none."""
    names = list(found.images[0].metrics)
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["file", *names])
    for scores in found.images:
        values = [scores.metrics[name] for name in names]
        writer.writerow([scores.file, *("" if v is None else repr(v) for v in values)])
    return text.getvalue()


def markdown_text(found: Evaluation, comparison: Comparison | None = None) -> str:
    """Means with their definitions, the verdict, and a line a picture."""
    reasons = found.reasons
    summary = [
        [name, _shown(value), found.providers.get(name, f"not measured: {reasons.get(name, '')}")]
        for name, value in found.summary.items()
    ]
    names = list(found.images[0].metrics)
    pictures = [
        [label, *(_shown(values[name]) for name in names)] for label, values in _rows(found)
    ][:-1]
    parts = [
        "# Evaluation",
        f"{len(found.images)} pictures, paired {PAIRING}.",
        _table(["metric", "mean", "computed by"], summary, words=(0, 2)),
        "\n".join(f"- {line}" for line in _remarks(found)),
        *([] if comparison is None else _verdict_section(comparison)),
        "## Pictures",
        _table(["file", *names], pictures),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _rows(found: Evaluation) -> Iterator[tuple[str, dict[str, float | None]]]:
    for scores in found.images:
        yield one_line(scores.file), scores.metrics
    yield "mean", found.summary


def _remarks(found: Evaluation) -> Iterator[str]:
    if found.samples > 1:
        yield f"samples: {found.samples} a picture; other metrics than diversity are their means"
    if found.cropped:
        yield f"cropped: {found.cropped} of {len(found.images)} references cut to the picture"
    if found.skipped:
        yield f"skipped: {len(found.skipped)} pictures that cannot be read are not in the mean"


def _verdict_section(comparison: Comparison) -> Iterator[str]:
    yield f"## Against {comparison.baseline}"
    yield f"**{comparison.line()}**"
    yield (
        f"Differences are candidate minus baseline, over pictures; bounds are one-sided at "
        f"{1 - ALPHA:.0%}, Student's t of paired differences."
    )
    header = [
        *("metric", "baseline", "difference", "lower bound", "upper bound", "margin", "verdict"),
        "worst picture",
    ]
    rows = [
        [
            name,
            _shown(comparison.baseline_summary.get(name)),
            *(_signed(value) for value in (verdict.mean, verdict.lower, verdict.upper)),
            "-" if verdict.margin is None else f"{verdict.margin:g}",
            verdict.word or "not judged",
            f"{one_line(verdict.worst or '')} {_signed(verdict.deltas.get(verdict.worst or ''))}",
        ]
        for name, verdict in comparison.metrics.items()
    ]
    yield _table(header, rows)


def _judged(verdict: Verdict) -> str:
    if verdict.mean is None:
        return f"{verdict.metric}: {verdict.reason}"
    worst = verdict.worst or ""
    text = (
        f"{verdict.metric}: {_signed(verdict.mean)} over {len(verdict.deltas)} pictures, "
        f"worst {one_line(worst)} {_signed(verdict.deltas.get(worst))}"
    )
    if verdict.lower is not None:
        text += f"; bounds {_signed(verdict.lower)} and {_signed(verdict.upper)}"
    if verdict.margin is None:
        return f"{text}; not judged"
    return f"{text}, margin {verdict.margin:g}: {verdict.word}"


def _aligned(label: str, width: int, cells: Sequence[str], columns: Sequence[int]) -> str:
    padded = (f"{cell:>{column}}" for cell, column in zip(cells, columns, strict=True))
    return " ".join([f"{label:{width}}", *padded])


def _table(
    header: Sequence[str], rows: Sequence[Sequence[str]], words: Sequence[int] = (0,)
) -> str:
    """Columns to the right, but for those of words."""
    rule = ["---" if column in words else "---:" for column in range(len(header))]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '/') for cell in line)} |"
        for line in (header, rule, *rows)
    )


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.4f}"
