"""The roofline as tables, for a terminal and for Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from srbench.report import markdown
from srbench.report.tables import plain_table
from srbench.report.text import significant
from srbench.roofline.ceilings import Ceiling, CeilingsFile
from srbench.roofline.limits import DATASHEET, MEASURED, Limits, limit_seconds
from srbench.roofline.model import Entry, PipelineRoofline, Roofline

Table = Callable[[Sequence[str], Sequence[Sequence[str]], int], str]
"""Header, rows and the number of columns aligned to the left, to text."""
NOT_MEASURED = "–"
WHOLE = "image"


def case_table(case: dict[str, PipelineRoofline], table: Table) -> str:
    """Stages of every pipeline in one case, each pipeline's whole image last."""
    header = [
        "pipeline", "stage", "TFLOP", "GB launched", "ideal GB", "FLOP/B", "bound by", "limit ms",
        "ceiling ms", "time ms", "TFLOP/s", "% limit", "% ceiling",
    ]  # fmt: skip
    rows = [
        [arm, *_row(name, entry)]
        for arm, roofline in case.items()
        for name, entry in [*roofline.stages.items(), (WHOLE, roofline.whole)]
    ]
    return table(header, rows, 2)


def _row(name: str, entry: Entry) -> list[str]:
    return [
        name,
        significant(entry.work.flops / 1e12),
        _number(entry.work.bytes, 1e9),
        _number(entry.work.ideal_bytes, 1e9),
        _number(entry.flop_per_byte),
        entry.regime or NOT_MEASURED,
        _number(entry.limits_ms.get(DATASHEET)),
        _number(entry.limits_ms.get(MEASURED)),
        _number(entry.time_ms),
        _number(entry.tflop_per_s),
        _percent(entry.percent_of(DATASHEET)),
        _percent(entry.percent_of(MEASURED)),
    ]


def card_table(roofline: Roofline, cards: dict[str, Limits], table: Table) -> str:
    """The least seconds of an image on each card by its datasheet: a limit, not a measurement."""
    rows = [
        [case, arm, *(significant(limit_seconds(each.fp16, card))
                      for card in cards.values())]
        for case, arms in roofline.cases.items()
        for arm, each in arms.items()
        if each.fp16
    ]  # fmt: skip
    return table(["case", "pipeline", *(f"{name} s" for name in cards)], rows, 2)


def ceiling_table(ceilings: CeilingsFile, limits: Sequence[Limits], table: Table) -> str:
    """What was timed alone, beside the datasheet where that has a peak for it."""
    datasheet = next((each for each in limits if each.source == DATASHEET), None)
    rows = [_ceiling_row(each, datasheet) for each in ceilings.ceilings]
    header = ["operation", "shape", "ms", "TFLOP/s", "GB/s", "% of datasheet"]
    return table(header, rows, 2)


def _ceiling_row(ceiling: Ceiling, datasheet: Limits | None) -> list[str]:
    if ceiling.seconds is None or ceiling.bytes_per_s is None:
        shape = f"{ceiling.shape}: not measured, {ceiling.reason}"
        return [ceiling.name, shape, *[NOT_MEASURED] * 4]
    rate, peak = ceiling.bytes_per_s, None if datasheet is None else datasheet.bytes_per_s
    if ceiling.flops_per_s is not None:
        rate, peak = ceiling.flops_per_s, None if datasheet is None else datasheet.flops_per_s
    return [
        ceiling.name,
        ceiling.shape,
        significant(1e3 * ceiling.seconds),
        _number(ceiling.flops_per_s, 1e12),
        _number(ceiling.bytes_per_s, 1e9),
        NOT_MEASURED if peak is None else f"{100 * rate / peak:.0f}",
    ]


def fold_lines(ceilings: CeilingsFile) -> list[str]:
    """Transposed convolution against upsampling and convolution: which one wins here."""
    lines = []
    for plain in ceilings.ceilings:
        folded = ceilings.of(plain.name.replace("upsample-conv", "transposed-conv"))
        if folded is None or folded is plain or not (plain.seconds and folded.seconds):
            continue
        share = folded.seconds / plain.seconds
        network = plain.name.removeprefix("upsample-conv-")
        lines.append(
            f"upsampling folded into a transposed convolution ({network}): "
            f"{share:.2f} of the time of upsampling and convolution"
        )
    return lines


def warnings(roofline: Roofline, strong: Callable[[str], str]) -> list[str]:
    """What stands above every number; `strong` as the format has it."""
    lines = []
    if roofline.synthetic:
        words = strong("SYNTHETIC weights")
        lines.append(f"{words} ({roofline.synthetic}): counts and limits are of their networks.")
    sources = {each.source for each in roofline.limits}
    if DATASHEET not in sources and roofline.profile.device == "cuda":
        lines.append(
            f"The datasheet of {roofline.profile.title} has no {roofline.precision} peak that is "
            "known here, so there is no limit by it."
        )
    return lines


def notes(roofline: Roofline, ceilings_file: Path) -> list[str]:
    """What a reader must know of the numbers, the missing ones first."""
    title = roofline.profile.title
    lines = []
    if roofline.ceilings is None:
        lines.append(
            f"No ceiling was measured on {title} ({ceilings_file}); on that machine: "
            f"srbench roofline --gpu {roofline.profile.name} --measure"
        )
    elif roofline.ceilings.precision != roofline.precision:
        lines.append(
            f"The ceilings in {ceilings_file} are of {roofline.ceilings.precision}, not "
            f"{roofline.precision}; they are not used."
        )
    lines += _untimed(roofline)
    return [
        *lines,
        f"GB launched: read and written by the operators as launched, at {roofline.precision}, "
        "weights included; autocast's casts and what stays float32 beside fp16 are left out.",
        "ideal GB: of the matrix products alone, all else fused into them; FLOP/B is of these.",
        "limit, ceiling: the least time by the datasheet and by the measured ceilings: sum over "
        "operators of the longer of arithmetic and ideal traffic. bound by: the larger of the two "
        "sums, by the ceilings where there are some.",
        "A stage that runs beside another one can take less than its limit.",
    ]


def _untimed(roofline: Roofline) -> list[str]:
    """One line a reason, not one a cell."""
    cells: dict[str, list[str]] = {}
    for case, arms in roofline.cases.items():
        for arm, each in arms.items():
            if each.not_measured:
                cells.setdefault(each.not_measured, []).append(f"{case} {arm}")
    everything = sum(len(arms) for arms in roofline.cases.values())
    measure = f"srbench run --gpu {roofline.profile.name}, then srbench roofline --run RUN"
    return [
        ("No times: " if len(names) == everything else f"No times of {', '.join(names)}: ")
        + f"{reason}. To measure them: {measure}"
        for reason, names in cells.items()
    ]


def _number(value: float | None, unit: float = 1.0) -> str:
    return NOT_MEASURED if value is None else significant(value / unit)


def _percent(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:.0f}"


def console_text(roofline: Roofline, cards: dict[str, Limits], ceilings_file: Path) -> str:
    """Everything, for stdout."""
    above = "\n".join(warnings(roofline, str))
    tables = [f"{heading}\n{body}" for heading, body in _parts(roofline, cards, plain_table)]
    below = "\n".join(notes(roofline, ceilings_file))
    return "\n\n".join(filter(None, [above, *tables, below]))


def markdown_text(
    roofline: Roofline, cards: dict[str, Limits], ceilings_file: Path, figure: str | None
) -> str:
    """A page with the figure first, where there is one."""
    above = warnings(roofline, "**{}**".format)
    pictures = [] if figure is None else [f"![Roofline: {roofline.label}]({figure})"]
    said = "\n".join(f"- {line}" for line in notes(roofline, ceilings_file))
    parts = [f"## {head}\n\n{body}" for head, body in _parts(roofline, cards, markdown.table)]
    return "\n\n".join([f"# Roofline: {roofline.label}", *above, *pictures, said, *parts]) + "\n"


def _parts(roofline: Roofline, cards: dict[str, Limits], table: Table) -> list[tuple[str, str]]:
    source = "" if roofline.run_id is None else f", times of {roofline.run_id}"
    label = f"{roofline.label}{source}"
    parts = [(f"{case}: {label}", case_table(arms, table)) for case, arms in roofline.cases.items()]
    if cards:
        heading = "Least seconds an image by datasheet at fp16 (a limit, nothing measured)"
        parts.append((heading, card_table(roofline, cards, table)))
    found = roofline.ceilings
    if found is not None and found.precision == roofline.precision:
        heading = f"Ceilings measured on {roofline.profile.title}, {found.precision}"
        lines = [ceiling_table(found, roofline.limits, table), *fold_lines(found)]
        parts.append((f"{heading}, {found.measured_at}", "\n\n".join(lines)))
    return parts
