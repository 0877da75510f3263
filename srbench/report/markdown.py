"""The page `reports/<profile>.md`: tables in the columns of the published ones, and how to read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from srbench.records import FidelityRecord
from srbench.report.model import ArmCell, Comparison, ReportModel, Row, block_count
from srbench.report.tables import decibels
from srbench.report.text import interval, mebibytes, ratio, seconds, significant

_MEMORY_NAMES = {
    "peak_tensor_bytes": "peak of live tensor bytes during one image, weights excluded",
    "allocator_peak_bytes": "peak allocated by the CUDA caching allocator, weights included",
}


def render(model: ReportModel, figures: Mapping[str, str], heading: str = "#") -> str:
    """Write one run as Markdown.

    Args:
        model: What to show.
        figures: `latency`, `stages`, `crops` -> file name beside the page; absent ones are left
            out.
        heading: Heading marks of the run's title.
    """
    parts = [_header(model, heading)]
    for comparison in model.comparisons:
        parts += [
            f"{heading}# {comparison.candidate} against {comparison.baseline}",
            _main_table(model, comparison),
            _image(figures, f"latency:{comparison.candidate}", "Latency and speed-up by case"),
            f"{heading}## Where the time goes",
            _stage_table(model, comparison),
            _image(figures, f"stages:{comparison.candidate}", "Stages of each case and arm"),
            f"{heading}## Spread, preparation and work",
            _spread_table(model, comparison),
            _image(figures, f"crops:{comparison.candidate}", "Input, baseline, candidate, error"),
        ]
    return "\n\n".join(part for part in parts if part) + "\n"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """A Markdown table, the first `left` columns aligned left."""
    marks = ["---" if column < left else "---:" for column in range(len(header))]
    lines = [list(header), marks, *rows]
    return "\n".join(f"| {' | '.join(_cell(text) for text in line)} |" for line in lines)


def _header(model: ReportModel, heading: str) -> str:
    head = model.run.head
    weights = head.weights.get("label") or head.weights.get("kind") or "unknown"
    lines = [f"{heading} {model.profile.title}: {head.run_id}"]
    if model.synthetic:
        lines.append(
            "**SYNTHETIC weights: no network here was trained. The times are real, the pictures "
            "and their likeness to anything but the baseline mean nothing.**"
        )
    state = "" if model.run.ended else " (**not finished**)"
    facts = [
        f"- Device: {_device(head.fingerprint, model.profile.title)}",
        f"- Precision: {head.precision}{', TF32 allowed' if head.tf32 else ''}",
        f"- Weights: {weights} (`{str(head.weights.get('digest', ''))[:12]}`)",
        f"- Plan: {block_count(model.run)} of {head.blocks} blocks x {head.pairs} pairs, "
        f"seed {head.seed}, noise seed {head.noise_seed}{state}",
        f"- Versions: srbench {head.srbench_version}, "
        + ", ".join(f"{arm} {version}" for arm, version in head.versions.items()),
        *_environment(head.fingerprint),
        f"- Started: {head.started_at}",
    ]
    return "\n\n".join([*lines, "\n".join(facts), _how_to_read(model)])


def _how_to_read(model: ReportModel) -> str:
    return (
        "How to read: a *block* is a fresh pair of processes; inside it the two arms take turns "
        "image by image. Time cost is the median over all images from uint8 picture in host memory "
        "to uint8 picture in host memory. The speed-up is not the quotient of those two medians "
        "but the paired estimate: the median ratio of neighbouring images in each block, averaged "
        "over blocks, with Student's t interval over blocks (none with one block). Memory is the "
        f"{_MEMORY_NAMES[model.memory_metric]}. PSNR is of the 8-bit RGB picture against the "
        "baseline's with the same noise; the worst block is its lowest 64x64 square."
    )


def _device(fingerprint: Mapping[str, Any], title: str) -> str:
    if gpu := fingerprint.get("gpu_name"):
        return str(gpu)
    if cpu := fingerprint.get("cpu_model"):
        cores = fingerprint.get("cpu_cores")
        return f"{cpu}, {cores} cores" if cores else str(cpu)
    return title


def _environment(fingerprint: Mapping[str, Any]) -> list[str]:
    lines = []
    if commit := fingerprint.get("commit"):
        lines.append(f"- Commit: {commit}{' (modified)' if fingerprint.get('dirty') else ''}")
    libraries = fingerprint.get("versions")
    if isinstance(libraries, dict) and libraries:
        named = ", ".join(f"{name} {version}" for name, version in libraries.items() if version)
        lines.append(f"- Libraries: {named}")
    return lines


def _main_table(model: ReportModel, comparison: Comparison) -> str:
    published = any(row.published_original_s is not None for row in comparison.rows)
    notes: list[str] = []
    header = [
        "Image Size",
        "SR Ratio",
        "Time cost(s) (baseline)",
        "Time cost(s) (optimized)",
        "Speed Up",
        "95 % interval",
        "Peak MiB (baseline)",
        "Peak MiB (optimized)",
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
    return "\n\n".join([caption, table(header, rows, left=2), *_footnotes(notes)])


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
    arms = [
        (row, arm, cell)
        for row in comparison.rows
        for arm, cell in (("baseline", row.baseline), ("optimized", row.candidate))
    ]
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


def _spread_table(model: ReportModel, comparison: Comparison) -> str:
    arms = [
        (row, arm, cell)
        for row in comparison.rows
        for arm, cell in (("baseline", row.baseline), ("optimized", row.candidate))
    ]
    counters = list(dict.fromkeys(name for _, _, cell in arms for name in cell.work))
    energy = any(cell.energy_j is not None for _, _, cell in arms)
    header = ["Case", "Arm", "median ms", "MAD ms", "p90 ms", "images", "prepare ms"]
    header += ["first image ms", *(["J/image"] if energy else [])]
    header += ["GFLOP" if name == "flops" else name.replace("_", " ") for name in counters]
    rows = []
    for row, arm, cell in arms:
        spread = cell.latency
        numbers = [spread.median, spread.mad, spread.p90] if spread else [None] * 3
        line = [row.case, arm, *(_optional(value) for value in numbers)]
        line += [str(spread.n) if spread else "0"]
        line += [_optional(cell.prepare_ms), _optional(cell.first_ms)]
        line += [_optional(cell.energy_j)] if energy else []
        line += [_counted(cell, name) for name in counters]
        rows.append(line)
    caption = f"*Spread of the timed images, times outside them, exact work; {_caption(model)}.*"
    return f"{caption}\n\n{table(header, rows, left=2)}"


def _counted(cell: ArmCell, counter: str) -> str:
    if counter not in cell.work:
        return "–"
    count = cell.work[counter]
    return significant(count / 1e9) if counter == "flops" else f"{count:,}"


def _optional(value: float | None) -> str:
    return "–" if value is None else significant(value)


def _caption(model: ReportModel) -> str:
    return model.label.replace("SYNTHETIC weights", "**SYNTHETIC weights**")


def _image(figures: Mapping[str, str], key: str, alt: str) -> str:
    return f"![{alt}]({figures[key]})" if key in figures else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
