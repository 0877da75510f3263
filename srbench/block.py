"""One case in one block: every arm warmed up and timed, in turns or one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srbench.arm import Arm
from srbench.cases import Case
from srbench.cell import Draft, time_one, warm_up
from srbench.plan import CellPlan, Warmup
from srbench.protocol import Upscale


def time_in_turns(
    cell: CellPlan, arms: Mapping[str, Arm], request: Upscale, warmup: Warmup
) -> dict[str, Draft]:
    """Warm all arms up, then time them image by image in the plan's ABBA order."""
    drafts = {name: _warmed(cell, arm, request, warmup) for name, arm in arms.items()}
    position = 0
    for pair, order in enumerate(cell.rounds):
        for name in order:
            if drafts[name].failure is None:
                time_one(arms[name], request, drafts[name], pair, position)
                position += 1
    return drafts


def time_alone(cell: CellPlan, arm: Arm, request: Upscale, warmup: Warmup, start: int) -> Draft:
    """Warm one arm up and time its images while no other worker is there.

    Args:
        cell: The case and its number of pairs.
        arm: The only one alive.
        request: The image.
        warmup: How many images are discarded.
        start: Position of its first timed image in the cell.
    """
    draft = _warmed(cell, arm, request, warmup)
    for pair in range(len(cell.rounds)):
        if draft.failure is None:
            time_one(arm, request, draft, pair, start + pair)
    return draft


def _warmed(cell: CellPlan, arm: Arm, request: Upscale, warmup: Warmup) -> Draft:
    draft = Draft()
    warm_up(arm, Case.parse(cell.case), request, warmup, draft)
    return draft


def device_states(draft: Draft) -> list[Mapping[str, Any]]:
    """Readings of the card around every timed image, in order; empty on CPU."""
    return [
        sample.state[when]
        for sample in draft.samples
        for when in ("before", "after")
        if when in sample.state
    ]
