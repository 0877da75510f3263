"""Tables of a ladder: a line a rung."""

from __future__ import annotations

from srbench.records import FidelityRecord
from srbench.report.html.table import Cell, Table, drop_empty_columns, memory, numeric
from srbench.report.ladder import NOT_DECIDED, OVER_BEFORE, LadderCase, Standing
from srbench.report.text import interval, outcome, ratio, seconds
from srbench.stats.speedup import Speedup

_MOST_OPTIONS = 4
_WORDS = 3
_NO_PREDICTION = (
    "No prediction applies here: this pipeline has none, or they are for other sizes, cards, "
    "precisions or options."
)


def ladder_table(ladder: LadderCase, label: str) -> Table:
    """Seconds, gains, prediction, memory and fidelity of each rung, but for empty columns."""
    header = ["Rung", "What", "Options", "Time cost(s)", "MAD s", OVER_BEFORE]
    header += ["95 % interval", "Over the baseline", f"Over {ladder.first_rung}"]
    header += ["Predicted s", "Predicted / measured", "Peak MiB"]
    header += ["PSNR dB", "Worst block dB", "eps rel. L2"]
    header += ["PSNR dB to the one before", "PSNR dB to fp32"]
    table = Table(
        caption=f"Ladder of {ladder.case}, {label}",
        header=header,
        words=_WORDS,
        rows=[_row(standing) for standing in ladder.standings],
        notes=_notes(ladder),
    )
    return drop_empty_columns(table, since=_WORDS)


def ladder_stage_table(ladder: LadderCase, label: str) -> Table | None:
    """Median milliseconds in each stage by rung; None when no stage was timed."""
    cells = [standing.cell for standing in ladder.standings]
    stages = list(dict.fromkeys(name for cell in cells for name in cell.stages_ms))
    if not stages:
        return None
    rows = [
        [Cell(each.arm.name), *(numeric(each.cell.stages_ms.get(name)) for name in stages)]
        for each in ladder.standings
    ]
    caption = f"Median milliseconds in each stage of {ladder.case}, {label}"
    return Table(caption=caption, header=["Rung", *stages], words=1, rows=rows)


def _row(standing: Standing) -> list[Cell]:
    arm, cell, spread = standing.arm, standing.cell, standing.cell.latency
    timed = standing.seconds is not None
    share = standing.predicted_over_measured
    return [
        Cell(f"{arm.name} (on top)" if arm.on_top else arm.name),
        Cell(arm.title),
        Cell(_options(arm.options)),
        Cell(seconds(cell).partition(":")[0], standing.seconds),
        numeric(spread.mad / 1000 if timed and spread else None),
        _speedup(standing.over_before),
        Cell(_interval(standing)),
        _speedup(standing.over_baseline),
        _speedup(standing.over_first),
        numeric(standing.predicted_s),
        numeric(share, None if share is None else f"{share:.2f}"),
        memory(cell.peak_bytes),
        _metric(standing.likeness, "psnr", ".2f", timed=timed),
        _metric(standing.likeness, "worst_block_psnr", ".2f", timed=timed),
        _metric(standing.likeness, "eps_relative_l2", ".1e", timed=timed),
        _metric(standing.change, "psnr", ".2f", timed=timed),
        _metric(standing.exactness, "psnr", ".2f", timed=timed),
    ]


def _options(options: dict[str, str]) -> str:
    if len(options) > _MOST_OPTIONS:
        return f"{len(options)}, below the table"
    return ", ".join(f"{key}={value}" for key, value in options.items()) or "–"


def _all_options(options: dict[str, str]) -> str:
    """All names, those that are off together."""
    off = ", ".join(key for key, value in options.items() if value == "false")
    others = ", ".join(f"{key}={value}" for key, value in options.items() if value != "false")
    return "; ".join(filter(None, [off and f"off: {off}", others]))


def _interval(standing: Standing) -> str:
    gain = standing.over_before
    if gain is None or gain.low is None or standing.verdict != NOT_DECIDED:
        return interval(gain)
    return f"{interval(gain)} ({NOT_DECIDED})"


def _speedup(value: Speedup | None) -> Cell:
    return numeric(None if value is None else value.value, ratio(value))


def _metric(record: FidelityRecord | None, name: str, form: str, *, timed: bool) -> Cell:
    if record is None or not timed:
        return Cell("–")
    if record.outcome != "ok":
        return Cell(record.outcome)
    value = record.metrics.get(name)
    return numeric(value, None if value is None else f"{value:{form}}")


def _notes(ladder: LadderCase) -> list[str]:
    """What the numbers of this table are."""
    notes = [
        f"{standing.arm.name}: {outcome(standing.cell)}"
        for standing in ladder.standings
        if standing.seconds is None
    ]
    bottom = ladder.standings[0].arm.name
    skipped = [
        f"{standing.arm.name} over {standing.before}"
        for above, standing in zip(ladder.standings, ladder.standings[1:], strict=False)
        if standing.over_before and standing.before != above.arm.name
    ]
    if skipped:
        notes.append(
            f"Where the one before has no time, the last one that has: {', '.join(skipped)}."
        )
    notes += [
        f"{standing.arm.name} sets {_all_options(standing.arm.options)}"
        for standing in ladder.standings
        if len(standing.arm.options) > _MOST_OPTIONS
    ]
    undecided = [each.over_before for each in ladder.standings if each.verdict == NOT_DECIDED]
    if any(gain and gain.low is not None for gain in undecided):
        notes.append(f"{NOT_DECIDED.capitalize()}: the interval covers 1.")
    if all(standing.predicted_s is None for standing in ladder.standings):
        notes.append(_NO_PREDICTION)
    else:
        notes.append(
            "Predicted: by a model, before anything was measured. Above 1 in 'Predicted / "
            "measured' it is faster than that."
        )
    if any(standing.likeness for standing in ladder.standings):
        notes.append(f"Pictures are held against those of {bottom} with the same noise.")
    return notes
