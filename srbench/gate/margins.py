"""Refuse a margin that the machine's measured noise makes meaningless."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

from srbench.errors import UsageError
from srbench.gate.comparable import same_pipeline
from srbench.gate.policy import Policy
from srbench.noise import NoiseFile, smallest_margin
from srbench.records import RunRecord
from srbench.stats.runs import GEOMEAN
from srbench.stats.sequential import LOOKS

MOST_BLOCKS = LOOKS[-1][0]
"""What not even the blocks of the last planned look can tell, no run can."""

FRESH = timedelta(days=30)
CLOCKS = timedelta(days=1)
"""How far two machines' clocks and time zones may be apart."""


def holds_to_margins(head: RunRecord) -> bool:
    """Whether the run holds a candidate to a margin even without a promoted run."""
    return any(same_pipeline(head, candidate) for candidate in head.pipelines[1:])


def require_margins(
    head: RunRecord, policy: Policy, noise: NoiseFile, reference_blocks: int | None = None
) -> list[str]:
    """Hold the policy's margins against the noise of an A/A run on this machine.

    A margin under what 16 blocks detect would fail or pass by luck; that of the absolute time, too,
    since two sessions scatter no less than the arms of one. Noise of another device says nothing
    about this one and is not held against it; noise that was measured in another way (driver,
    precision, weights, pairs, pipeline), longer than 30 days ago or after the run, is, with a
    warning.

    Args:
        head: Of the run, which need not have begun.
        policy: For `margin` and `time_margin`.
        noise: Of the profile.
        reference_blocks: Finished ones of the run that it is held against; None without one.

    Returns:
        Warnings, one line each.

    Raises:
        UsageError: A margin is below the smallest that can be told from the noise.
    """
    where = f"noise/{noise.profile}.json"
    device = head.fingerprint.get("gpu_name") or head.fingerprint.get("cpu_model")
    if device != noise.device_name:
        return [
            f"{where} is of {noise.device_name}, this run of {device}: margins are not held "
            "against it; make one with: srbench aa"
        ]
    blocks = f"{MOST_BLOCKS} blocks"
    if reference_blocks is not None:
        blocks += f" against {reference_blocks}"
    for key, case, margin in _margins(head.cases, policy):
        if case not in noise.sd:
            continue
        least = smallest_margin(noise, case, MOST_BLOCKS, reference_blocks)
        if margin < least:
            raise UsageError(
                f"{key} {100 * margin:g} % of {case} is below {100 * least:.2g} %, the smallest "
                f"that {blocks} tell from the noise in {where} (run {noise.run_id}): "
                "raise it in the policy, or quiet the machine and repeat srbench aa"
            )
    warnings = []
    if missing := [case for case in head.cases if case not in noise.sd]:
        warnings.append(f"{where} has no {', '.join(missing)}: the margin is not held against it")
    warnings += [
        f"{where} was measured with {what} {theirs}, this run with {ours}; repeat srbench aa"
        for what, ours, theirs in _conditions(head, noise)
        if ours != theirs
    ]
    age = _age(head.started_at, noise.measured_at)
    if age is None or age > FRESH:
        since = "of unknown age" if age is None else f"{age.days} days older than this run"
        warnings.append(f"{where} is {since}; repeat srbench aa")
    elif age < -CLOCKS:
        warnings.append(f"{where} is {(-age).days} days younger than this run")
    return warnings


def _margins(cases: list[str], policy: Policy) -> Iterator[tuple[str, str, float]]:
    """Key, case (or `geomean`) and value of every margin on time that the policy sets."""
    for case in cases:
        rules = policy.for_case(case)
        yield "margin", case, rules.margin
        if rules.time_margin is not None:
            yield "time_margin", case, rules.time_margin
    if len(cases) > 1:
        yield "margin", GEOMEAN, policy.margin


def _conditions(head: RunRecord, noise: NoiseFile) -> Iterator[tuple[str, Any, Any]]:
    """What, here, there: all that the noise may depend on besides the device."""
    yield "driver", head.fingerprint.get("driver"), noise.driver
    yield "precision", head.precision, noise.precision
    yield "weights", head.weights.get("label"), noise.weights
    yield "pairs", head.pairs, noise.pairs
    pipelines = [str(head.arms.get(arm, {}).get("pipeline", arm)) for arm in head.pipelines]
    yield "pipeline", _names(pipelines, noise.pipeline), noise.pipeline


def _names(pipelines: list[str], measured: str) -> str:
    """The noise of either arm's pipeline is this run's."""
    return measured if measured in pipelines else " and ".join(dict.fromkeys(pipelines))


def _age(now: str, then: str) -> timedelta | None:
    try:
        return datetime.fromisoformat(now) - datetime.fromisoformat(then)
    except (ValueError, TypeError):
        return None
