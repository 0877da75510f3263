"""From an A/A run to its result."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, expm1, log1p, sqrt

from srbench.aa.replay import all_blocks, false_alarms, planted
from srbench.aa.result import AaResult, AaRow, Interval
from srbench.errors import UsageError
from srbench.gate.policy import Policy
from srbench.noise import NoiseFile
from srbench.records import Run
from srbench.stats.effects import one_sample
from srbench.stats.power import minimum_detectable_effect, required_blocks
from srbench.stats.runs import (
    GEOMEAN,
    baseline_arm,
    candidate_arms,
    measured_ratios,
    order_log_ratios,
    with_geomean,
)
from srbench.stats.sequential import LOOKS, look_for
from srbench.stats.signflip import sign_flip_p
from srbench.stats.simultaneous import FAMILY_CONFIDENCE, simultaneous_intervals


def analyse(run: Run) -> AaResult:
    """Judge a run whose two arms are the same pipeline.

    Raises:
        UsageError: The run has not exactly two arms, or they are not the same pipeline.
    """
    first, second = _arms(run)
    cells = measured_ratios(run, second, run.head.cases)
    found = {case: order_log_ratios(run, case, second) for case in cells}
    orders = with_geomean({case: order for case, order in found.items() if order})
    values = with_geomean(cells)
    intervals = simultaneous_intervals({key: one_sample(d) for key, d in values.items()})
    rows = [_row(key, d, intervals[key], orders.get(key, [])) for key, d in values.items()]
    # With fewer than two blocks in any case the rule could only answer "inconclusive".
    testable = bool(cells) and all(len(each) > 1 for each in values.values())
    return AaResult(
        run_id=run.head.run_id,
        profile=run.head.profile,
        pipeline=_pipeline(run, first),
        blocks=len(all_blocks(cells)),
        pairs=run.head.pairs,
        confidence=FAMILY_CONFIDENCE,
        margin=Policy().margin,
        rows=rows,
        missing=[case for case in run.head.cases if case not in cells],
        false_alarms=false_alarms(cells, run.head.seed) if testable else None,
        planted=planted(run, second) if testable else [],
    )


def noise_file(run: Run, result: AaResult) -> NoiseFile:
    """What `srbench aa` keeps of a run for the gate and the plan.

    Raises:
        UsageError: One block, or no case with a result: there is no standard deviation.
    """
    sd = {row.case: row.sd for row in result.rows if row.sd is not None}
    if not sd:
        raise UsageError(f"run {result.run_id}: no noise without two blocks of a case; --blocks 6")
    head = run.head
    facts = head.fingerprint
    return NoiseFile(
        profile=head.profile,
        device_name=str(facts.get("gpu_name") or facts.get("cpu_model") or "unknown"),
        driver=facts.get("driver"),
        run_id=head.run_id,
        measured_at=head.started_at,
        pipeline=result.pipeline,
        precision=head.precision,
        weights=str(head.weights.get("label")),
        pairs=head.pairs,
        blocks=min(row.blocks for row in result.rows),
        # With a single case the mean over cases is that case.
        sd={GEOMEAN: next(iter(sd.values())), **sd},
    )


def _arms(run: Run) -> tuple[str, str]:
    candidates = candidate_arms(run)
    if len(candidates) != 1:
        raise UsageError(
            f"run {run.head.run_id}: an A/A analysis needs two arms, not {1 + len(candidates)}"
        )
    first, second = baseline_arm(run), candidates[0]
    if _pipeline(run, first) != _pipeline(run, second):
        raise UsageError(
            f"run {run.head.run_id}: arms {first} and {second} are not the same pipeline; "
            "make an A/A run with: srbench aa"
        )
    return first, second


def _pipeline(run: Run, arm: str) -> str:
    return str(run.head.arms.get(arm, {}).get("pipeline", arm))


def _row(
    case: str, values: Sequence[float], simultaneous: Interval | None, orders: Sequence[float]
) -> AaRow:
    effect = one_sample(values)
    blocks = effect.blocks
    sd = None if effect.standard_error is None else effect.standard_error * sqrt(blocks)
    order = one_sample(orders) if orders else None
    counts = sorted({least for least, _ in LOOKS} | {blocks})
    return AaRow(
        case=case,
        blocks=blocks,
        ratio=exp(effect.estimate),
        interval=_ratios_of(effect.interval()),
        simultaneous=_ratios_of(simultaneous),
        sign_flip_p=sign_flip_p(values),
        sd=sd,
        mde={} if sd is None else {count: _detectable(sd, count) for count in counts},
        blocks_for_margin=None if sd is None else _blocks_for_margin(sd),
        order=None if order is None else exp(order.estimate),
        order_interval=None if order is None else _ratios_of(order.interval()),
    )


def _detectable(sd: float, blocks: int) -> float:
    return expm1(minimum_detectable_effect(sd, blocks, look_for(blocks).alpha))


def _blocks_for_margin(sd: float) -> int | None:
    """At the last look's alpha, the strictest: an earlier look asks for no more."""
    return required_blocks(log1p(Policy().margin), sd, LOOKS[-1][1])


def _ratios_of(interval: Interval | None) -> Interval | None:
    return None if interval is None else (exp(interval[0]), exp(interval[1]))
