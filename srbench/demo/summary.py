"""The words and the table under the pictures, as HTML."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from pipelines.contract import STAGES
from srbench.demo.session import Difference, Painted, Result


def summary_html(result: Result, notes: Sequence[str] = ()) -> str:
    """Difference, remarks and times of a result.

    Args:
        result: Of a session.
        notes: Sentences on the input, before the pipelines' own remarks.
    """
    remarks = dict.fromkeys((*notes, *result.a.remarks, *result.b.remarks))
    parts = [
        f"<p class='srbench-difference'>{_difference(result.difference)}</p>",
        *(f"<p class='srbench-remark'>{escape(remark)}</p>" for remark in remarks),
        _table(result.a, result.b),
    ]
    return "".join(parts)


def _difference(found: Difference | None) -> str:
    if found is None:
        return "A and B differ in size: no PSNR between them."
    if math.isinf(found.psnr_db):
        return "<b>A and B are identical</b>, pixel by pixel."
    return (
        f"PSNR between A and B: <b>{found.psnr_db:.2f} dB</b> "
        f"(RGB, 8 bits; largest difference {found.largest} of 255, "
        f"{math.floor(1000 * found.equal_share) / 10:.1f}% of the values equal)"
    )


def _table(a: Painted, b: Painted) -> str:
    found = {*a.stages_ms, *b.stages_ms}
    stages = [name for name in STAGES if name in found]
    longest = max([*a.stages_ms.values(), *b.stages_ms.values()], default=1.0)
    rows = [
        f"<tr><th scope='row'>{name}</th>"
        + "".join(_stage_cell(arm.stages_ms.get(name), longest) for arm in (a, b))
        + "</tr>"
        for name in stages
    ]
    heads = "".join(
        f"<th scope='col'>{arm} · {escape(painted.pipeline)}</th>"
        for arm, painted in (("A", a), ("B", b))
    )
    return (
        "<table class='srbench-times'><caption>Time by stage, ms</caption>"
        f"<thead><tr><th></th>{heads}</tr></thead><tbody>{''.join(rows)}</tbody><tfoot>"
        + _foot("total", a.latency_ms, b.latency_ms, "srbench-total")
        + _foot("loading, before", a.load_ms, b.load_ms)
        + _foot("preparing the size, before", a.prepare_ms, b.prepare_ms)
        + f"</tfoot></table>{_warm_up(a, b)}"
    )


def _stage_cell(value_ms: float | None, longest_ms: float) -> str:
    if value_ms is None:
        return "<td>-</td>"
    share = 100 * value_ms / longest_ms if longest_ms else 0
    return f"<td style='--share:{share:.1f}%'>{value_ms:.1f}</td>"


def _foot(name: str, a_ms: float | None, b_ms: float | None, kind: str = "") -> str:
    cells = ("still loaded" if value is None else f"{value:.1f}" for value in (a_ms, b_ms))
    marked = f" class='{kind}'" if kind else ""
    return f"<tr{marked}><th scope='row'>{name}</th>{''.join(f'<td>{c}</td>' for c in cells)}</tr>"


def _warm_up(a: Painted, b: Painted) -> str:
    first = " and ".join(arm for arm, painted in (("A", a), ("B", b)) if painted.is_first)
    if not first:
        return ""
    return (
        f"<p class='srbench-remark'>First picture of this size from {first}: its time includes "
        "warming up. Run again for a fair look; <code>srbench run</code> gives a verdict.</p>"
    )
