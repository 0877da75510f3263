"""The share of what the card can do, by case and arm, for the report of a run."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median

from srbench.records import Run
from srbench.report.html.table import Cell, Table, drop_empty_columns, numeric
from srbench.report.model import ReportModel
from srbench.roofline.limits import DATASHEET, MEASURED
from srbench.roofline.stored import StoredLimits
from srbench.stats.runs import cells_of, latencies_ms


def limit_table(model: ReportModel) -> Table | None:
    """Counted work, the rate reached, and the share of the physical limit.

    Without the limits of `srbench roofline` the share of the datasheet's arithmetic alone is told.

    Returns:
        None for a run in which nothing was counted or timed.
    """
    run, limits_ms = model.run, model.limits_ms
    rows = [
        row
        for case in run.head.cases
        for arm in run.head.pipelines
        if (row := _row(model, case, arm, limits_ms.get(case, {}).get(arm, {}))) is not None
    ]
    if not rows or model.simulated:
        return None
    table = Table(
        caption=f"Share of the physical limit, {model.label}",
        header=[
            "Case", "Arm", "TFLOP", "median s", "TFLOP/s", "% of peak arithmetic", "limit s",
            "% of limit", "ceiling s", "% of ceiling",
        ],
        words=2,
        rows=rows,
        notes=_notes(run, limits_ms),
    )  # fmt: skip
    return drop_empty_columns(table, since=5)


def _row(
    model: ReportModel, case: str, arm: str, limits_ms: Mapping[str, float]
) -> list[Cell] | None:
    flops, latencies = counted_flops(model.run, case, arm), latencies_ms(model.run, case, arm)
    if flops is None or not latencies:
        return None
    seconds = median(latencies) / 1e3
    rate = flops / seconds / 1e12
    peak = model.profile.fp16_tflops if model.run.head.precision == "fp16" else None
    cells = [numeric(flops / 1e12), numeric(seconds), numeric(rate)]
    cells.append(_percent(rate, peak))
    for source in (DATASHEET, MEASURED):
        limit = limits_ms.get(source)
        limit_s = None if limit is None else limit / 1e3
        cells += [numeric(limit_s), _percent(limit_s, seconds)]
    return [Cell(case), Cell(arm), *cells]


def counted_flops(run: Run, case: str, arm: str) -> int | None:
    """Of one image, as its worker counted them; None where it did not."""
    counted = (sum(cell.work.get("flops", {}).values()) for cell in cells_of(run, case, arm))
    return next((flops for flops in counted if flops), None)


def _percent(part: float | None, whole: float | None) -> Cell:
    if part is None or not whole:
        return numeric(None)
    return numeric(100 * part / whole, f"{100 * part / whole:.1f}")


def _notes(run: Run, limits_ms: StoredLimits) -> list[str]:
    if not limits_ms:
        return [
            "The limit, operator by operator, and the card's measured ceilings: "
            f"srbench roofline --run {run.head.run_id}, then this report again."
        ]
    return [
        "limit, ceiling: the least time by the datasheet and by the card's measured ceilings, sum "
        "over operators of the longer of arithmetic and ideal traffic."
    ]
