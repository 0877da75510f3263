"""Refuse a margin that the machine's measured noise makes meaningless."""

from __future__ import annotations

from datetime import datetime, timedelta

from srbench.errors import UsageError
from srbench.gate.policy import Policy
from srbench.gate.ratios import GEOMEAN
from srbench.noise import NoiseFile, smallest_margin
from srbench.records import Run

MOST_BLOCKS = 16
"""Blocks of the last planned look: what not even these can tell, no run can."""

FRESH = timedelta(days=30)


def require_margins(run: Run, cases: list[str], policy: Policy, noise: NoiseFile) -> list[str]:
    """Hold the policy's margins against the noise of an A/A run on this machine.

    A margin under what 16 blocks detect would fail or pass by luck. Noise of another device says
    nothing about this one and is not held against it; noise of another driver, or older than 30
    days, is, with a warning.

    Returns:
        Warnings, one line each.

    Raises:
        UsageError: A margin is below the smallest that can be told from the noise.
    """
    where = f"noise/{noise.profile}.json"
    ours = run.head.fingerprint
    device = ours.get("gpu_name") or ours.get("cpu_model")
    if device != noise.device_name:
        return [
            f"{where} is of {noise.device_name}, this run of {device}: margins are not held "
            "against it; make one with: srbench aa"
        ]
    margins = {case: policy.for_case(case).margin for case in cases if case in noise.sd}
    if len(cases) > 1 and GEOMEAN in noise.sd:
        margins[GEOMEAN] = policy.margin
    for case, margin in margins.items():
        least = smallest_margin(noise, case, MOST_BLOCKS)
        if margin < least:
            raise UsageError(
                f"margin {100 * margin:g} % of {case} is below {100 * least:.2g} %, the smallest "
                f"that {MOST_BLOCKS} blocks tell from the noise in {where} (run {noise.run_id}): "
                "raise it in the policy, or quiet the machine and repeat srbench aa"
            )
    warnings = []
    if missing := [case for case in cases if case not in noise.sd]:
        warnings.append(f"{where} has no {', '.join(missing)}: the margin is not held against it")
    if ours.get("driver") != noise.driver:
        warnings.append(
            f"{where} was measured with driver {noise.driver}, this run with {ours.get('driver')}; "
            "repeat srbench aa"
        )
    age = _age(run.head.started_at, noise.measured_at)
    if age is None or age > FRESH:
        since = "of unknown age" if age is None else f"{age.days} days older than this run"
        warnings.append(f"{where} is {since}; repeat srbench aa")
    return warnings


def _age(now: str, then: str) -> timedelta | None:
    try:
        return datetime.fromisoformat(now) - datetime.fromisoformat(then)
    except (ValueError, TypeError):
        return None
