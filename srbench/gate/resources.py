"""Do both arms still take the memory and the work that they took in the promoted run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from srbench.gate.checks import Check, Verdict
from srbench.gate.policy import Policy
from srbench.records import CellRecord, Run
from srbench.stats.runs import baseline_arm, cells_of

_MIB = 2**20


def memory_metric(run: Run) -> str:
    """The memory number that gates: exact tensor bytes on CPU, the allocator's peak on CUDA."""
    return "allocator_peak_bytes" if run.head.device == "cuda" else "peak_tensor_bytes"


def peak_bytes(run: Run, case: str, arm: str) -> int | None:
    """Highest peak over blocks of the memory number that gates; None when not measured."""
    metric = memory_metric(run)
    peaks = [cell.memory.get(metric) for cell in _good_cells(run, case, arm)]
    return max((peak for peak in peaks if peak is not None), default=None)


def work_counters(run: Run, case: str, arm: str) -> dict[str, int]:
    """Counter -> highest value over blocks: `launches`, `calls.unet`, `flops` over stages, ..."""
    counters: dict[str, int] = {}
    for cell in _good_cells(run, case, arm):
        for counter, value in _flat(cell.work).items():
            counters[counter] = max(value, counters.get(counter, value))
    return counters


def resource_checks(
    run: Run, reference: Run, arms: dict[str, str], cases: list[str], policy: Policy, name: str
) -> list[Check]:
    """Memory and work of each arm (`arms`: ours -> theirs) against the promoted run."""
    checks: list[Check] = []
    for case in cases:
        for ours, theirs in arms.items():
            checks.append(_memory_check(run, reference, (ours, theirs), case, policy, name))
            checks += _work_checks(run, reference, (ours, theirs), case, name)
    return checks


def _good_cells(run: Run, case: str, arm: str) -> Iterator[CellRecord]:
    return (cell for cell in cells_of(run, case, arm) if cell.outcome == "ok")


def _memory_check(
    run: Run, reference: Run, arms: tuple[str, str], case: str, policy: Policy, name: str
) -> Check:
    metric = memory_metric(run)
    value, promoted = peak_bytes(run, case, arms[0]), peak_bytes(reference, case, arms[1])
    if value is None or promoted is None:
        who = "this run" if value is None else name
        return _check(
            (case, arms[0], metric),
            value,
            promoted,
            Verdict.INCONCLUSIVE,
            "not_measured",
            f"{metric} {case} {arms[0]} was not measured in {who}",
        )
    rules = policy.for_case(case)
    floor = rules.memory_floor_mib * _MIB if metric == "allocator_peak_bytes" else 0.0
    limit = promoted + max(rules.memory_margin * promoted, floor)
    good = value <= limit
    change = f"{100 * (value / promoted - 1):+.1f} %" if promoted else f"+{value} bytes"
    return _check(
        (case, arms[0], metric),
        value,
        limit,
        Verdict.PASS if good else Verdict.FAIL,
        "within_limits" if good else "more_memory",
        f"{metric} {case} {arms[0]} {value / _MIB:.1f} MiB, {change} against {name}",
    )


def _work_checks(
    run: Run, reference: Run, arms: tuple[str, str], case: str, name: str
) -> Iterator[Check]:
    ours, theirs = work_counters(run, case, arms[0]), work_counters(reference, case, arms[1])
    versions = run.head.versions.get(arms[0]), reference.head.versions.get(arms[1])
    if versions[0] != versions[1]:
        text = f"work {case} {arms[0]}: version {versions[0]}, {name} has {versions[1]}: not held"
        yield _check((case, arms[0], "work"), None, None, Verdict.SKIPPED, "other_version", text)
        return
    may_shrink = arms[0] != baseline_arm(run)
    for counter in sorted(ours.keys() | theirs.keys()):
        value, promoted = ours.get(counter), theirs.get(counter)
        where = (case, arms[0], counter)
        if value is None or promoted is None:
            who = "this run" if value is None else name
            text = f"{counter} {case} {arms[0]} was not counted in {who}"
            yield _check(where, value, promoted, Verdict.INCONCLUSIVE, "not_measured", text)
            continue
        good = value == promoted or (may_shrink and value < promoted)
        code = "more_work" if value > promoted else "work_changed"
        yield _check(
            where,
            value,
            promoted,
            Verdict.PASS if good else Verdict.FAIL,
            "within_limits" if good else code,
            f"{counter} {case} {arms[0]} {value:,}, {name} has {promoted:,}",
        )


def _check(
    where: tuple[str, str, str],
    value: float | None,
    threshold: float | None,
    verdict: Verdict,
    code: str,
    message: str,
) -> Check:
    return Check(
        case=where[0],
        pipeline=where[1],
        metric=where[2],
        value=value,
        threshold=threshold,
        verdict=verdict,
        reason_code=code,
        message=message,
    )


def _flat(work: dict[str, Any]) -> dict[str, int]:
    counters: dict[str, int] = {}
    for key, value in work.items():
        if key == "flops" and isinstance(value, dict):
            counters[key] = sum(value.values())
        elif isinstance(value, dict):
            counters |= {f"{key}.{name}": count for name, count in value.items()}
        elif value is not None:
            counters[key] = value
    return counters
