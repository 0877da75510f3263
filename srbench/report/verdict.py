"""A judgement as a plain table and as one JSON document."""

from __future__ import annotations

from math import isfinite
from typing import Any

from srbench.gate.checks import Check, Judgement, Verdict
from srbench.report.tables import plain_table

_SHOWN_WHEN_PASSED = frozenset(
    {"latency", "time", "speedup", "psnr", "worst_block_psnr", "lpips", "eps_relative_l2"}
    | {"determinism", "psnr_vs_fp32", "eps_vs_fp32", "energy_j"}
    | {"peak_tensor_bytes", "allocator_peak_bytes"}
)


def verdict_table(judgement: Judgement) -> str:
    """What did not pass first; passing counters and outcomes only as a number."""
    ordered = judgement.worst_first()
    shown = [
        check
        for check in ordered
        if check.verdict is not Verdict.PASS or check.metric in _SHOWN_WHEN_PASSED
    ]
    rows = [
        [check.verdict.value.replace("_", " "), check.case, check.metric, check.message]
        for check in shown
    ]
    against = f" against {judgement.against}" if judgement.against else ""
    simulated = ", SIMULATED: no device was measured" if judgement.simulated else ""
    lines = [f"{judgement.run_id}{against}{simulated}"]
    if rows:
        lines.append(plain_table(["verdict", "case", "metric", "what"], rows, left=4))
    hidden = len(ordered) - len(shown)
    if hidden:
        lines.append(f"{hidden} more checks passed (outcomes, work counters)")
    lines.append(f"verdict: {judgement.word}")
    return "\n".join(lines)


def verdict_json(judgement: Judgement) -> dict[str, Any]:
    """The judgement as JSON values; a number that is not finite becomes null."""
    return {
        "verdict": judgement.verdict.value,
        "exit_code": int(judgement.exit_code),
        "run": judgement.run_id,
        "profile": judgement.profile,
        "against": judgement.against,
        "simulated": judgement.simulated,
        "warnings": judgement.warnings,
        "checks": [_check_json(check) for check in judgement.checks],
    }


def _check_json(check: Check) -> dict[str, Any]:
    return {
        "case": check.case,
        "pipeline": check.pipeline,
        "metric": check.metric,
        "value": _finite(check.value),
        "threshold": _finite(check.threshold),
        "interval": None if check.interval is None else [_finite(end) for end in check.interval],
        "verdict": check.verdict.value,
        "reason_code": check.reason_code,
        "message": check.message,
        "improved": check.improved,
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None
