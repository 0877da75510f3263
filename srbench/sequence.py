"""The blocks of a run one after another, wherever they are measured."""

from __future__ import annotations

from collections.abc import Callable, Collection

from srbench.plan import Plan


def measure_blocks(
    plan: Plan,
    measure: Callable[[int], None],
    finished: Collection[int],
    *,
    stop: Callable[[], bool],
    decided: Callable[[], bool] = lambda: False,
) -> int | None:
    """Measure all blocks that are not finished.

    Args:
        plan: Of the run.
        measure: Measures the block of an index and stores it.
        finished: Blocks to skip.
        stop: Asked before each block.
        decided: Asked at the looks of a sequential plan; True ends the run early. Only where the
            block after the look is not finished: no look lies behind a resumed run.

    Returns:
        How many blocks the run has; None when it was stopped.
    """
    for index in range(plan.blocks):
        if index in finished:
            continue
        if index in plan.looks and decided():
            return index
        if stop():
            return None
        measure(index)
    return None if stop() else plan.blocks
