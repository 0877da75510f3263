"""Tables of what was measured: speed-up, spread, and memory, energy and work of each arm."""

from __future__ import annotations

from itertools import islice
from statistics import median

from srbench.records import CellRecord, FidelityRecord, Run
from srbench.report.html.table import Cell, Table, drop_empty_columns, memory, numeric
from srbench.report.model import ArmCell, Comparison, ReportModel, Row
from srbench.report.tables import decibels
from srbench.report.text import interval, ratio, seconds, significant
from srbench.stats.runs import cells_of

_PUBLISHED = ["Published original s", "Published lyraDiff s", "Published Speed Up"]
_MOST_ROWS = 200
"""Of a table of what went wrong: in thousands of blocks more can than anybody reads."""
_SPREAD = ["median ms", "MAD ms", "p90 ms", "images", "prepare ms", "first image ms"]
_MEMORY = {
    "peak_tensor_bytes": "peak tensors MiB",
    "allocator_peak_bytes": "allocator peak MiB",
    "reserved_peak_bytes": "reserved peak MiB",
    "process_vram_bytes": "process VRAM MiB",
    "rss_peak_bytes": "host RSS MiB",
}
_ENERGY = {
    "gross_j": "J/image gross",
    "net_j": "J/image less idle",
    "polled_j": "J/image polled",
    "idle_w": "idle W",
    "window_s": "window s",
}


def speedup_table(model: ReportModel, comparison: Comparison) -> Table:
    """The published columns: time of both arms, speed-up, memory, fidelity."""
    published = any(row.published_original_s is not None for row in comparison.rows)
    notes: list[str] = []
    rows = [_main_row(row, notes, published) for row in comparison.rows]
    mean = comparison.geomean
    header = ["Image Size", "SR Ratio", *(f"Time cost(s) ({role})" for role in comparison.roles)]
    header += ["Speed Up", "95 % interval", *(f"Peak MiB ({role})" for role in comparison.roles)]
    header += ["PSNR dB", "Worst block dB", "SSIM", "LPIPS", *(_PUBLISHED if published else [])]
    foot = [Cell(f"Geometric mean of {comparison.geomean_cases}"), *[Cell("")] * 3]
    foot += [Cell(ratio(mean)), Cell(interval(mean)), *[Cell("")] * (len(header) - 6)]
    notes += comparison.remarks
    if not published:
        notes.append("No times were published for this device.")
    return Table(
        caption=f"Speed-up and fidelity, {model.label}",
        header=header,
        words=2,
        rows=rows,
        foot=[foot],
        notes=notes,
    )


def _main_row(row: Row, notes: list[str], published: bool) -> list[Cell]:
    value = row.speedup
    cells = [
        Cell(row.image_size, row.input_pixels),
        Cell(row.sr_ratio, int(row.sr_ratio[1:]) if row.input_pixels else None),
        _time(row.baseline),
        _time(row.candidate),
        numeric(None if value is None else value.value, ratio(value)),
        Cell(interval(value), None if value is None else value.low),
        memory(row.baseline.peak_bytes),
        memory(row.candidate.peak_bytes),
        *(_decibels(row.fidelity, metric) for metric in ("psnr", "worst_block_psnr")),
        *(_metric(row.fidelity, metric, notes) for metric in ("ssim", "lpips")),
    ]
    if published:
        original, lyradiff = row.published_original_s, row.published_lyradiff_s
        cells += [
            numeric(value, f"{value:.2f}" if value else None) for value in (original, lyradiff)
        ]
        quotient = original / lyradiff if original and lyradiff else None
        cells.append(numeric(quotient, f"{quotient:.2f}x" if quotient else None))
    return cells


def _time(cell: ArmCell) -> Cell:
    known = cell.outcome == "ok" and cell.latency is not None
    return Cell(seconds(cell), cell.latency.median if known and cell.latency else None)


def _decibels(record: FidelityRecord | None, metric: str) -> Cell:
    return Cell(decibels(record, metric), None if record is None else record.metrics.get(metric))


def _metric(record: FidelityRecord | None, metric: str, notes: list[str]) -> Cell:
    if record is None or record.outcome != "ok":
        return Cell("not measured")
    if (value := record.metrics.get(metric)) is not None:
        return Cell(f"{value:.4f}", value)
    note = f"{metric.upper()}: {record.not_measured.get(metric, 'no reason was recorded')}"
    if note not in notes:
        notes.append(note)
    return Cell("not measured")


def spread_table(model: ReportModel, comparison: Comparison) -> Table:
    """Spread of the timed images, and the times outside the timed span."""
    rows = []
    for row, arm, cell in comparison.cells():
        spread = cell.latency
        numbers = [spread.median, spread.mad, spread.p90] if spread else [None] * 3
        line = [Cell(row.case), Cell(arm), *(numeric(value) for value in numbers)]
        line.append(Cell(str(spread.n if spread else 0), spread.n if spread else 0))
        rows.append([*line, numeric(cell.prepare_ms), numeric(cell.first_ms)])
    caption = f"Spread of the timed images and times outside them, {model.label}"
    return Table(caption=caption, header=["Case", "Arm", *_SPREAD], words=2, rows=rows)


def resource_table(model: ReportModel, comparison: Comparison) -> Table:
    """Memory, energy and exact work of each arm; what no cell has is left out."""
    counters = list(dict.fromkeys(name for _, _, cell in comparison.cells() for name in cell.work))
    header = ["Case", "Arm", *_MEMORY.values(), *_ENERGY.values()]
    header += ["GFLOP" if name == "flops" else name.replace("_", " ") for name in counters]
    rows = []
    names = dict(zip(comparison.roles, (comparison.baseline, comparison.candidate), strict=True))
    for row, arm, cell in comparison.cells():
        good = [c for c in cells_of(model.run, row.case, names[arm]) if c.outcome == "ok"]
        line = [Cell(row.case), Cell(arm)]
        line += [memory(_peak(good, metric)) for metric in _MEMORY]
        line += [numeric(_energy(good, metric)) for metric in _ENERGY]
        rows.append([*line, *(_count(cell.work.get(name), name) for name in counters)])
    caption = f"Memory, energy and work of one image, {model.label}"
    return drop_empty_columns(Table(caption=caption, header=header, words=2, rows=rows), since=2)


def _peak(cells: list[CellRecord], metric: str) -> int | None:
    peaks = [cell.memory.get(metric) for cell in cells]
    return max((peak for peak in peaks if peak is not None), default=None)


def _energy(cells: list[CellRecord], metric: str) -> float | None:
    """Median over blocks; files from before the details have the gross number alone."""
    stored = [
        cell.energy.get(metric, cell.energy_j if metric == "gross_j" else None) for cell in cells
    ]
    known = [value for value in stored if value is not None]
    return median(known) if known else None


def _count(count: int | None, name: str) -> Cell:
    if count is None:
        return Cell("–")
    return Cell(significant(count / 1e9) if name == "flops" else f"{count:,}", count)


def outcome_table(run: Run) -> Table | None:
    """Cells that did not end well, with the blocks it happened in; None when all did."""
    found: dict[tuple[str, str, str, str], list[int]] = {}
    for cell in run.cells:
        if cell.outcome != "ok":
            key = cell.case, cell.pipeline, cell.outcome, cell.reason or "no reason was recorded"
            found.setdefault(key, []).append(cell.block)
    rows = [
        [
            Cell(case),
            Cell(arm),
            Cell(outcome, kind="verdict verdict-error"),
            Cell(_ranges(sorted(blocks)), min(blocks)),
            Cell(reason),
        ]
        for (case, arm, outcome, reason), blocks in islice(found.items(), _MOST_ROWS)
    ]
    header = ["Case", "Arm", "Outcome", "Blocks", "Reason"]
    caption = "Cells without a result"
    notes = _unshown(len(found))
    return (
        Table(caption=caption, header=header, words=5, rows=rows, notes=notes, prose=True)
        if rows
        else None
    )


def _ranges(blocks: list[int]) -> str:
    """`0, 1, 4–1999`: neighbours by their ends, where there are three or more."""
    groups: list[list[int]] = []
    for block in blocks:
        if groups and block == groups[-1][-1] + 1:
            groups[-1].append(block)
        else:
            groups.append([block])
    return ", ".join(
        f"{group[0]}–{group[-1]}" if len(group) > 2 else ", ".join(map(str, group))
        for group in groups
    )


def _unshown(count: int) -> list[str]:
    rest = count - _MOST_ROWS
    return [f"{rest} more are in the results file."] if rest > 0 else []


def void_table(run: Run) -> Table | None:
    """Blocks that something disturbed and that were measured again; None when none was."""
    rows = [
        [
            Cell(str(void.block), void.block),
            Cell(str(void.attempt), void.attempt),
            Cell(void.finished_at),
            Cell("; ".join(void.reasons)),
        ]
        for void in run.voids[:_MOST_ROWS]
    ]
    header = ["Block", "Attempt", "Ended", "What was seen"]
    caption = "Voided blocks: disturbed, not counted, measured again"
    notes = _unshown(len(run.voids))
    return (
        Table(caption=caption, header=header, words=4, rows=rows, notes=notes, prose=True)
        if rows
        else None
    )
