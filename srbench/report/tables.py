"""Plain-text tables for a terminal: no colours, no box characters, narrow enough for logs."""

from __future__ import annotations

from collections.abc import Sequence

from srbench.records import FidelityRecord, Run
from srbench.report.model import Comparison, ReportModel, block_count, build_model
from srbench.report.text import interval, mebibytes, ratio, seconds


def console_table(run: Run) -> str:
    """The speed-up table of a run, for stdout."""
    model = build_model(run)
    return "\n\n".join([_title(model), *(_comparison(each) for each in model.comparisons)])


def plain_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Align columns with two spaces between; the first `left` columns to the left."""
    lines = [list(header), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < left else text.rjust(width)
            for column, (text, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _title(model: ReportModel) -> str:
    head = model.run.head
    return (
        f"{head.run_id}: {model.label}, {block_count(model.run)} blocks x {head.pairs} pairs, "
        f"seed {head.seed}"
    )


def _comparison(comparison: Comparison) -> str:
    rows = [
        [
            row.image_size,
            row.sr_ratio,
            seconds(row.baseline),
            seconds(row.candidate),
            ratio(row.speedup),
            interval(row.speedup),
            f"{mebibytes(row.baseline.peak_bytes)} / {mebibytes(row.candidate.peak_bytes)}",
            decibels(row.fidelity, "psnr"),
            decibels(row.fidelity, "worst_block_psnr"),
        ]
        for row in comparison.rows
    ]
    mean = comparison.geomean
    rows.append(["geomean", "", "", "", ratio(mean), interval(mean), "", "", ""])
    times = [f"{role} s" for role in comparison.roles]
    header = ["size", "ratio", *times, "speed-up", "95 %", "peak MiB"]
    table = plain_table([*header, "PSNR dB", "worst block dB"], rows, left=2)
    title = f"{comparison.candidate} against {comparison.baseline}"
    return "\n".join([title, table, *comparison.remarks])


def decibels(record: FidelityRecord | None, metric: str) -> str:
    """A metric of the fidelity record to two decimals, or why not."""
    if record is None:
        return "not measured"
    if record.outcome != "ok":
        return record.outcome
    value = record.metrics.get(metric)
    return "not measured" if value is None else f"{value:.2f}"
