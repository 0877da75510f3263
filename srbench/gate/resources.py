"""Does an arm still take the memory and the work that its yardstick takes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from srbench.gate.checks import Check, Question, Verdict
from srbench.gate.comparable import Yardstick
from srbench.gate.policy import Policy
from srbench.records import CellRecord, Run
from srbench.stats.runs import baseline_arm, cells_of

_MIB = 2**20
_ALLOCATOR, _TENSORS = "allocator_peak_bytes", "peak_tensor_bytes"
_CALLS = "calls."
_NEVER_ZERO = ("launches", "flops")
"""No image is made of nothing: a zero was not counted, and where anything was these are asked for.
Copies, or calls of one network, may be zero."""


def memory_metric(run: Run) -> str:
    """The memory number that gates: the allocator's peak on a card, exact tensor bytes elsewhere.

    A simulated device makes up a card.
    """
    return _ALLOCATOR if run.head.device in ("cuda", "simulated") else _TENSORS


def peak_bytes(run: Run, case: str, arm: str) -> int | None:
    """Highest peak over blocks of the memory number that gates; None when not measured.

    A zero or less is no measurement: no image fits in no memory.
    """
    metric = memory_metric(run)
    peaks = [cell.memory.get(metric) for cell in _good_cells(run, case, arm)]
    return max((peak for peak in peaks if peak and peak > 0), default=None)


def work_counters(run: Run, case: str, arm: str) -> dict[str, int]:
    """Counter -> highest value over blocks: `launches`, `calls.unet`, `flops` over stages, ..."""
    counters: dict[str, int] = {}
    for cell in _good_cells(run, case, arm):
        for counter, value in _flat(cell.work).items():
            counters[counter] = max(value, counters.get(counter, value))
    return counters


def memory_check(run: Run, case: str, arm: str, yardstick: Yardstick, policy: Policy) -> Check:
    """Peak memory of one cell, at most 1 % or 32 MiB more, whichever is larger.

    The floor is for the allocator's rounding; exact tensor bytes have none. It is not held where
    driver or libraries differ: they choose the workspaces.
    """
    metric = memory_metric(run)
    question = Question(case, arm, metric)
    name = yardstick.name
    if not yardstick.environment.same_software:
        why = "; ".join(yardstick.environment.lines(name))
        text = f"{metric} {case} {arm} is not held against {name}: {why}"
        return question.answer(Verdict.SKIPPED, "other_environment", text)
    value, promoted = peak_bytes(run, case, arm), peak_bytes(yardstick.run, case, yardstick.arm)
    if value is None or promoted is None:
        text = f"{metric} {case} {arm} was not measured in {'this run' if value is None else name}"
        return question.unmeasured(text, value=value, threshold=promoted)
    rules = policy.for_case(case)
    floor = rules.memory_floor_mib * _MIB if metric == _ALLOCATOR else 0.0
    limit = promoted + max(rules.memory_margin * promoted, floor)
    change = 100 * (value / promoted - 1)
    text = f"{metric} {case} {arm} {value / _MIB:.1f} MiB, {change:+.1f} % against {name}"
    return question.holds(value <= limit, "more_memory", text, value=value, threshold=limit)


def work_checks(run: Run, case: str, arm: str, yardstick: Yardstick) -> Iterator[Check]:
    """Every counter of one cell at zero tolerance; a candidate may do less, a baseline may not.

    `flops` are held as their sum: a stage that takes none, or is gone, is what an optimization of a
    candidate may be. Runs of counters alone hold the peak of tensor bytes among them: on the meta
    device it is as exact as the rest.
    """
    ours = _counters(run, case, arm)
    theirs = _counters(yardstick.run, case, yardstick.arm)
    versions = run.head.versions.get(arm), yardstick.run.head.versions.get(yardstick.arm)
    work = Question(case, arm, "work")
    name = yardstick.name
    if versions[0] != versions[1]:
        text = f"work {case} {arm}: version {versions[0]}, {name} has {versions[1]}: not held"
        yield work.answer(Verdict.SKIPPED, "other_version", text)
        return
    asked = ours.keys() | theirs.keys()
    if (
        _counts_only(run)
        or _was_counted(run, case, arm)
        or _was_counted(yardstick.run, case, yardstick.arm)
    ):
        asked |= set(_NEVER_ZERO)
    if not asked:
        text = f"work {case} {arm} was not counted"
        yield work.unmeasured(text, verdict=Verdict.SKIPPED)
    may_shrink = arm != baseline_arm(run)
    for counter in sorted(asked):
        value, promoted = _count(ours, counter), _count(theirs, counter)
        question = Question(case, arm, counter)
        if value is None or promoted is None:
            text = f"{counter} {case} {arm} was not counted in "
            text += "this run" if value is None else name
            yield question.unmeasured(text, value=value, threshold=promoted)
            continue
        yield question.holds(
            value == promoted or (may_shrink and value < promoted),
            "more_work" if value > promoted else "work_changed",
            f"{counter} {case} {arm} {value:,}, {name} has {promoted:,}",
            value=value,
            threshold=promoted,
        )


def _count(counters: dict[str, int], counter: str) -> int | None:
    """A network that is not among the counted calls was not called."""
    uncalled = counter.startswith(_CALLS) and any(key.startswith(_CALLS) for key in counters)
    return counters.get(counter, 0 if uncalled else None)


def _was_counted(run: Run, case: str, arm: str) -> bool:
    return any(cell.work for cell in _good_cells(run, case, arm))


def _counts_only(run: Run) -> bool:
    return run.head.purpose == "work"


def _counters(run: Run, case: str, arm: str) -> dict[str, int]:
    found = work_counters(run, case, arm)
    called = any(value for counter, value in found.items() if counter.startswith(_CALLS))
    never_zero = _NEVER_ZERO if called else (*_NEVER_ZERO, _CALLS)
    counters = {
        counter: value
        for counter, value in found.items()
        if value > 0 or not counter.startswith(never_zero)
    }
    peak = peak_bytes(run, case, arm) if _counts_only(run) else None
    return counters if peak is None else {**counters, memory_metric(run): peak}


def _good_cells(run: Run, case: str, arm: str) -> Iterator[CellRecord]:
    return (cell for cell in cells_of(run, case, arm) if cell.outcome == "ok")


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
