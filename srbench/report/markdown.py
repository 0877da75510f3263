"""The page `reports/<profile>.md`: the verdict, and tables in the columns of the published ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from srbench.gate.checks import Judgement
from srbench.records import FidelityRecord
from srbench.report.header import page_header
from srbench.report.html.chosen import decision_table
from srbench.report.html.judged import fidelity_table, open_checks, passed_checks
from srbench.report.html.ladders import ladder_stage_table, ladder_table
from srbench.report.html.measured import outcome_table, resource_table, spread_table, void_table
from srbench.report.html.rivals import rival_table
from srbench.report.html.table import Table
from srbench.report.ladder import ladder_cases
from srbench.report.model import ArmCell, Comparison, ReportModel, Row
from srbench.report.roofline import limit_table
from srbench.report.tables import decibels
from srbench.report.text import interval, mebibytes, ratio, seconds, significant


def render(
    model: ReportModel,
    figures: Mapping[str, str],
    heading: str = "#",
    judgement: Judgement | None = None,
) -> str:
    """Write one run as Markdown.

    Args:
        model: What to show.
        figures: `latency`, `stages`, `crops` -> file name beside the page; absent ones are left
            out.
        heading: Heading marks of the run's title.
        judgement: The gate's answer, for the section on the verdict.
    """
    parts = [page_header(model, heading), _verdict(model, judgement, heading)]
    for ladder in ladder_cases(model.run):
        parts += [
            f"{heading}# Ladder of {ladder.case}",
            _image(figures, f"ladder:{ladder.case}", "Seconds rung by rung, and their fidelity"),
            section(model.label, ladder_table(ladder, model.label)),
            section(model.label, ladder_stage_table(ladder, model.label)),
        ]
    for comparison in model.comparisons:
        parts += [
            f"{heading}# {comparison.candidate} against {comparison.baseline}",
            _main_table(model, comparison),
            section(model.label, rival_table(model, comparison)),
            _image(figures, f"latency:{comparison.candidate}", "Latency and speed-up by case"),
            f"{heading}## Where the time goes",
            _stage_table(model, comparison),
            _image(figures, f"stages:{comparison.candidate}", "Stages of each case and arm"),
            f"{heading}## Spread, preparation and work",
            section(model.label, spread_table(model, comparison)),
            section(model.label, resource_table(model, comparison)),
            _image(figures, f"crops:{comparison.candidate}", "Input, baseline, candidate, error"),
        ]
    if (share := limit_table(model)) is not None:
        parts += [f"{heading}# Share of the physical limit", section(model.label, share)]
    if (chosen := decision_table(model.run)) is not None:
        parts += [f"{heading}# Choices", section(model.label, chosen)]
    if any(record.reference not in model.run.head.pipelines for record in model.run.fidelity):
        parts.append(f"{heading}# Likeness to other references")
        parts.append(section(model.label, fidelity_table(model.run)))
    broken = [section(model.label, found(model.run)) for found in (outcome_table, void_table)]
    if any(broken):
        parts += [f"{heading}# What did not go well", *broken]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table, the first `left` columns aligned left."""
    marks = ["---" if column < left else "---:" for column in range(len(header))]
    lines = [list(header), marks, *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def _verdict(model: ReportModel, judgement: Judgement | None, heading: str) -> str:
    if judgement is None:
        return ""
    against = f", against {judgement.against}" if judgement.against else ""
    parts = [f"{heading}# Verdict: {judgement.word}{against}"]
    parts += [f"> {warning}" for warning in judgement.warnings]
    parts.append(section(model.label, open_checks(judgement)))
    passed = passed_checks(judgement)
    if passed is not None:
        count = f"{len(passed.rows)} of {len(judgement.checks)} checks passed"
        shown = section(model.label, passed)
        parts.append(f"<details><summary>{count}</summary>\n\n{shown}\n\n</details>")
    return "\n\n".join(part for part in parts if part)


def section(label: str, shown: Table | None) -> str:
    """A table of the HTML page as Markdown, its caption labelled like every other."""
    if shown is None or not shown.rows:
        return ""
    label = "" if label in shown.caption else f"; {label}"
    lines = [[cell.text for cell in row] for row in (*shown.rows, *shown.foot)]
    caption = f"*{_bold(shown.caption + label)}.*"
    notes = "\n".join(f"{note}  " for note in shown.notes)
    return "\n\n".join(filter(None, [caption, table(shown.header, lines, shown.words), notes]))


def _main_table(model: ReportModel, comparison: Comparison) -> str:
    published = any(row.published_original_s is not None for row in comparison.rows)
    notes: list[str] = []
    header = [
        "Image Size",
        "SR Ratio",
        *(f"Time cost(s) ({role})" for role in comparison.roles),
        "Speed Up",
        "95 % interval",
        *(f"Peak MiB ({role})" for role in comparison.roles),
        "PSNR dB",
        "Worst block dB",
        "SSIM",
        "LPIPS",
    ]
    if published:
        header += ["Published original s", "Published lyraDiff s", "Published Speed Up"]
    rows = [_main_row(row, notes, published) for row in comparison.rows]
    mean = comparison.geomean
    rows.append(
        [f"**Geometric mean of {comparison.geomean_cases}**", "", "", "", f"**{ratio(mean)}**"]
        + [interval(mean)]
        + [""] * (len(header) - 6)
    )
    caption = f"*Speed-up and fidelity; {_caption(model)}.*"
    if not published:
        caption += " *No times were published for this device.*"
    remarks = [f"> {remark}" for remark in comparison.remarks]
    return "\n\n".join([caption, table(header, rows, left=2), *remarks, *_footnotes(notes)])


def _main_row(row: Row, notes: list[str], published: bool) -> list[str]:
    record = row.fidelity
    cells = [
        row.image_size,
        row.sr_ratio,
        seconds(row.baseline),
        seconds(row.candidate),
        ratio(row.speedup),
        interval(row.speedup),
        mebibytes(row.baseline.peak_bytes),
        mebibytes(row.candidate.peak_bytes),
        decibels(record, "psnr"),
        decibels(record, "worst_block_psnr"),
        _metric(record, "ssim", notes),
        _metric(record, "lpips", notes),
    ]
    if published:
        original, lyradiff = row.published_original_s, row.published_lyradiff_s
        cells += ["–" if value is None else f"{value:.2f}" for value in (original, lyradiff)]
        both = original is not None and lyradiff is not None
        cells.append(f"{original / lyradiff:.2f}x" if both and original and lyradiff else "–")
    return cells


def _metric(record: FidelityRecord | None, metric: str, notes: list[str]) -> str:
    if record is None or record.outcome != "ok":
        return "not measured"
    value = record.metrics.get(metric)
    if value is not None:
        return f"{value:.4f}"
    note = f"{metric.upper()}: {record.not_measured.get(metric, 'no reason was recorded')}"
    if note not in notes:
        notes.append(note)
    return f"not measured [{notes.index(note) + 1}]"


def _footnotes(notes: list[str]) -> list[str]:
    return ["\n".join(f"[{n}] {note}  " for n, note in enumerate(notes, 1))] if notes else []


def _stage_table(model: ReportModel, comparison: Comparison) -> str:
    arms = list(comparison.cells())
    stages = list(dict.fromkeys(name for _, _, cell in arms for name in cell.stages_ms))
    if not stages:
        return "No stage was timed."
    rows = [
        [row.case, arm]
        + [significant(cell.stages_ms[name]) if name in cell.stages_ms else "" for name in stages]
        + [_total_ms(cell)]
        for row, arm, cell in arms
    ]
    caption = f"*Median milliseconds in each stage; {_caption(model)}.*"
    return f"{caption}\n\n{table(['Case', 'Arm', *stages, 'whole image'], rows, left=2)}"


def _total_ms(cell: ArmCell) -> str:
    return "" if cell.latency is None else significant(cell.latency.median)


def _caption(model: ReportModel) -> str:
    return _bold(model.label)


def _bold(caption: str) -> str:
    """What nobody may overlook."""
    for words in ("SIMULATED", "SYNTHETIC weights"):
        caption = caption.replace(words, f"**{words}**")
    return caption


def _image(figures: Mapping[str, str], key: str, alt: str) -> str:
    return f"![{alt}]({figures[key]})" if key in figures else ""


def _cell(text: str) -> str:
    """Reasons of crashed workers hold bars, line ends and tags such as `<module>`."""
    return text.replace("|", "\\|").replace("\n", " ").replace("<", "&lt;")
