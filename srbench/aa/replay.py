"""The gate's rule applied to an A/A run whose truth has been changed in a known way."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import product
from math import log1p

from srbench.aa.result import FalseAlarms, Planted
from srbench.records import CellRecord, Run
from srbench.stats.effects import one_sample
from srbench.stats.runs import measured_ratios, with_geomean
from srbench.stats.sequential import LOOKS, Decision, decide, is_decided, look_for

PLANTED = (0.02, 0.05)
"""Slow-downs that the gate's rule has to find in one arm's recorded times."""

HEADROOM = 0.02
"""A planted slow-down is judged at a margin this far below it: the gate promises to find a
slow-down of its margin and 2 points, no smaller one."""

MOST_PATTERNS = 2000
"""All sign patterns are tried up to this number, so many drawn ones beyond."""

Cells = Mapping[str, Mapping[int, float]]
"""Case -> block -> d."""


def all_blocks(cells: Cells) -> list[int]:
    """Blocks in which any case has a result."""
    return sorted(set().union(*cells.values()))


def sequential_decisions(cells: Cells, margin: float) -> dict[str, Decision]:
    """Walk through the gate's looks until one decides, or the blocks are used up.

    Args:
        cells: At least one block of at least one case.
        margin: Tolerated slow-down of every hypothesis, in log units.
    """
    blocks = all_blocks(cells)
    counts = [least for least, _ in LOOKS if least <= len(blocks)]
    decisions: dict[str, Decision] = {}
    # The last look uses all blocks, as the gate does.
    for count in [*counts[:-1], len(blocks)]:
        seen = set(blocks[:count])
        values = with_geomean(
            {
                case: part
                for case, ratios in cells.items()
                if (part := {block: d for block, d in ratios.items() if block in seen})
            }
        )
        effects = {key: one_sample(d) for key, d in values.items()}
        decisions = decide(effects, dict.fromkeys(effects, margin), look_for(count))
        if is_decided(decision.verdict for decision in decisions.values()):
            break
    return decisions


def false_alarms(cells: Cells, seed: int) -> FalseAlarms:
    """Count how often the rule fails at a margin of 0 when every block's d is made d or -d.

    Where both arms are alike, all these data sets are as likely as the measured one. A block's
    cases keep their common sign, and so their correlation.
    """
    blocks = all_blocks(cells)
    exhaustive = 2 ** len(blocks) <= MOST_PATTERNS
    patterns = list(product((1, -1), repeat=len(blocks)) if exhaustive else _drawn(blocks, seed))
    failed = 0
    for signs in patterns:
        sign = dict(zip(blocks, signs, strict=True))
        flipped = {
            case: {block: sign[block] * d for block, d in ratios.items()}
            for case, ratios in cells.items()
        }
        decisions = sequential_decisions(flipped, 0.0)
        failed += any(decision.verdict == "fail" for decision in decisions.values())
    return FalseAlarms(failed=failed, patterns=len(patterns), exhaustive=exhaustive, margin=0.0)


def planted(run: Run, arm: str) -> list[Planted]:
    """Multiply the arm's recorded times by each planted slow-down and ask the rule."""
    return [_look_for(run, arm, slowdown) for slowdown in PLANTED]


def _drawn(blocks: list[int], seed: int) -> Iterator[tuple[int, ...]]:
    generator = random.Random(f"srbench aa {seed}")
    for _ in range(MOST_PATTERNS):
        yield tuple(generator.choice((1, -1)) for _ in blocks)


def _look_for(run: Run, arm: str, slowdown: float) -> Planted:
    margin = max(0.0, slowdown - HEADROOM)
    slowed = replace(run, cells=[_slowed(cell, arm, 1 + slowdown) for cell in run.cells])
    decisions = sequential_decisions(measured_ratios(slowed, arm, run.head.cases), log1p(margin))
    failing = [key for key, decision in decisions.items() if decision.verdict == "fail"]
    passing = all(decision.verdict == "pass" for decision in decisions.values())
    return Planted(
        slowdown=slowdown,
        margin=margin,
        verdict="found" if failing else "not found" if passing else "inconclusive",
        cases=failing,
    )


def _slowed(cell: CellRecord, arm: str, factor: float) -> CellRecord:
    if cell.pipeline != arm:
        return cell
    samples = [
        sample | {"latency_ms": float(sample["latency_ms"]) * factor} for sample in cell.samples
    ]
    return replace(cell, samples=samples)
