"""Counted operators, summed by stage; bytes at the precision of a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from pipelines.contract import STAGES, OperatorCount

_COUNTED_IN = 4
"""Bytes of an element on the meta device, where pipelines count in float32."""
_ELEMENT_BYTES = {"fp32": 4, "fp16": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class StageWork:
    """What one stage, or a whole image, computes and moves.

    Attributes:
        flops: 2 per multiply-add.
        bytes: Read and written by the operators as launched; None where they are not known.
        ideal_bytes: Of the matrix products alone, everything else fused into them.
        weight_bytes: Part of `bytes` that was there before the image.
        launches: Operators.
        kinds: Kind of operator -> FLOPs.
        operators: Behind all that.
    """

    flops: int
    bytes: int | None = None
    ideal_bytes: int | None = None
    weight_bytes: int | None = None
    launches: int | None = None
    kinds: dict[str, int] = field(default_factory=dict)
    operators: tuple[OperatorCount, ...] = ()


def read_operators(lines: Iterable[list[Any]], precision: str) -> tuple[OperatorCount, ...]:
    """Operators as they come from a worker, their bytes scaled to the precision of a run.

    Every tensor is taken to be of that precision: what a pipeline keeps in float32 beside fp16 (the
    noise prediction, the masters of merged weights), and the casts of autocast, are left out. The
    codes of quantized pipelines have one byte on every device, and count as half of one at fp16.

    Args:
        lines: The fields of `OperatorCount`, in order.
        precision: `fp32` or `fp16`.
    """
    share = _ELEMENT_BYTES[precision]
    scaled = []
    for stage, kind, flops, *moved, count in lines:
        ideal, eager, weights = (size * share // _COUNTED_IN for size in moved)
        scaled.append(OperatorCount(stage, kind, flops, ideal, eager, weights, count))
    return tuple(scaled)


def work_by_stage(
    flops: dict[str, int], operators: tuple[OperatorCount, ...], timed: Iterable[str] = ()
) -> dict[str, StageWork]:
    """Stage -> work, in order of execution.

    Args:
        flops: Stage -> FLOPs: all that a pipeline without operators tells.
        operators: Empty for such a pipeline.
        timed: Stages that have a time, with or without work.
    """
    if not operators:
        names = _in_order([*flops, *timed])
        return {name: StageWork(flops=flops.get(name, 0)) for name in names}
    groups: dict[str, list[OperatorCount]] = defaultdict(list)
    for operator in operators:
        groups[operator.stage].append(operator)
    return {name: whole_work(tuple(groups[name])) for name in _in_order([*groups, *timed])}


def whole_work(operators: tuple[OperatorCount, ...]) -> StageWork:
    """Sum over operators, of one stage or of all."""
    kinds: dict[str, int] = defaultdict(int)
    for operator in operators:
        if operator.flops:
            kinds[operator.kind] += operator.flops * operator.count
    return StageWork(
        flops=sum(kinds.values()),
        bytes=sum(each.eager_bytes * each.count for each in operators),
        ideal_bytes=sum(each.ideal_bytes * each.count for each in operators),
        weight_bytes=sum(each.weight_bytes * each.count for each in operators),
        launches=sum(each.count for each in operators),
        kinds=dict(kinds),
        operators=operators,
    )


def _in_order(stages: Iterable[str]) -> list[str]:
    seen = set(stages)
    return [name for name in STAGES if name in seen] + sorted(seen - set(STAGES))
