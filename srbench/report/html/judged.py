"""Tables of what was judged: fidelity against every reference, the checks of the gate."""

from __future__ import annotations

from srbench.gate.checks import Check, Judgement, Verdict
from srbench.records import FidelityRecord, Run
from srbench.report.html.table import Cell, Table, drop_empty_columns

_METRICS = {
    "psnr": ("PSNR dB", "{:.2f}"),
    "psnr_float": ("PSNR float dB", "{:.2f}"),
    "worst_block_psnr": ("Worst block dB", "{:.2f}"),
    "ssim": ("SSIM", "{:.4f}"),
    "lpips": ("LPIPS", "{:.4f}"),
    "eps_relative_l2": ("eps relative L2", "{:.2e}"),
    "max_abs_diff": ("Largest difference (of 255)", "{:.0f}"),
}
_REFERENCES = {
    "fp32": "baseline in fp32",
    "repeat": "itself, worst of four more",
    "other_process": "itself in other processes, the worst",
    "other_seed": "itself, other noise",
    "hr": "the photograph (HR)",
}


def fidelity_table(run: Run) -> Table | None:
    """Every stored comparison of pictures, in the order of the cases; None when there is none."""
    if not run.fidelity:
        return None
    order = {case: index for index, case in enumerate(run.head.cases)}
    records = sorted(run.fidelity, key=lambda record: order.get(record.case, len(order)))
    extra = sorted({name for record in records for name in record.metrics} - _METRICS.keys())
    header = ["Case", "Arm", "Held against", "Outcome", *(title for title, _ in _METRICS.values())]
    notes = dict.fromkeys(
        f"{metric.upper()} not measured: {why}"
        for record in records
        for metric, why in record.not_measured.items()
    )
    providers = dict.fromkeys(
        f"{metric}: {name}" for record in records for metric, name in record.providers.items()
    )
    table = Table(
        caption="Likeness of the pictures, same input; the same noise unless it says otherwise",
        header=[*header, *(name.replace("_", " ") for name in extra)],
        words=4,
        rows=[_fidelity_row(record, extra) for record in records],
        notes=[*notes, *(["Computed by " + ", ".join(providers)] if providers else [])],
    )
    return drop_empty_columns(table, since=4)


def _fidelity_row(record: FidelityRecord, extra: list[str]) -> list[Cell]:
    kind = "" if record.outcome == "ok" else "verdict verdict-error"
    reason = f": {record.reason}" if record.reason else ""
    cells = [
        Cell(record.case),
        Cell(record.pipeline),
        Cell(_REFERENCES.get(record.reference, record.reference)),
        Cell(record.outcome + reason, kind=kind),
    ]
    formats = {name: form for name, (_, form) in _METRICS.items()} | dict.fromkeys(extra, "{:.4g}")
    for name, form in formats.items():
        value = record.metrics.get(name)
        cells.append(Cell("–") if value is None else Cell(form.format(value), value))
    return cells


def open_checks(judgement: Judgement) -> Table | None:
    """Checks that did not pass, the gravest first; None when all passed."""
    checks = [check for check in judgement.worst_first() if check.verdict is not Verdict.PASS]
    return _check_table(checks, "Checks that failed, are open or were skipped") if checks else None


def passed_checks(judgement: Judgement) -> Table | None:
    """Checks that passed, in the order of asking; None when none did."""
    checks = [check for check in judgement.checks if check.verdict is Verdict.PASS]
    return _check_table(checks, "Checks that passed") if checks else None


def _check_table(checks: list[Check], caption: str) -> Table:
    rows = [
        [
            verdict_cell(check.verdict),
            Cell(check.case),
            Cell(check.pipeline),
            Cell(check.metric.replace("_", " ")),
            Cell(check.reason_code.replace("_", " ")),
            Cell(check.message),
        ]
        for check in checks
    ]
    header = ["Verdict", "Case", "Arm", "Metric", "Reason", "What was found"]
    return Table(caption=caption, header=header, words=6, rows=rows, prose=True)


def verdict_cell(verdict: Verdict) -> Cell:
    """The verdict as a word with a colour."""
    return Cell(verdict.value.replace("_", " "), kind=f"verdict verdict-{verdict.value}")
