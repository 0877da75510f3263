"""The speed-up on a card, of one run or of many machines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log
from statistics import median, stdev

from srbench.stats.speedup import Speedup


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A speed-up on one card.

    Attributes:
        value: Of one run its estimate; of several the median over nodes of each node's median.
        low, high: Of one run the 95 % interval, None with one block; of several the range over
            nodes, or over the runs where all are of one node.
        over: `nodes`, `runs`, or empty for one run.
        count: How many of those.
        deviation: Standard deviation between them, log units; None for one run.
    """

    value: float
    low: float | None
    high: float | None
    over: str = ""
    count: int = 1
    deviation: float | None = None


def ratio_of(found: Sequence[tuple[str, Speedup]]) -> Ratio | None:
    """Sum up the speed-ups of a card's runs, each with its node; None without any."""
    if not found:
        return None
    if len(found) == 1:
        only = found[0][1]
        return Ratio(value=only.value, low=only.low, high=only.high)
    by_node: dict[str, list[float]] = {}
    for node, each in found:
        by_node.setdefault(node, []).append(log(each.value))
    several = len(by_node) > 1
    logs = list(map(median, by_node.values())) if several else [log(s.value) for _, s in found]
    return Ratio(
        value=exp(median(logs)),
        low=exp(min(logs)),
        high=exp(max(logs)),
        over="nodes" if several else "runs",
        count=len(logs),
        deviation=stdev(logs),
    )
