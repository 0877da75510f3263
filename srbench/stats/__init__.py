"""Statistics of paired runs: pure functions over lists of floats, nothing here touches a device.

The unit of replication is the block (a fresh pair of worker processes): iterations inside one
process share its memory layout, clocks and neighbours and are not independent (Kalibera and Jones,
"Rigorous benchmarking in reasonable time", ISMM 2013).
"""

from srbench.stats.effects import Effect, one_sample, pooled_difference, welch_difference
from srbench.stats.sequential import Decision, Look, decide, holm, look_for
from srbench.stats.speedup import Speedup, geometric_mean_blocks, paired_log_ratio, speedup
from srbench.stats.summary import Summary, mad, median, quantile, summarize

__all__ = [
    "Decision",
    "Effect",
    "Look",
    "Speedup",
    "Summary",
    "decide",
    "geometric_mean_blocks",
    "holm",
    "look_for",
    "mad",
    "median",
    "one_sample",
    "paired_log_ratio",
    "pooled_difference",
    "quantile",
    "speedup",
    "summarize",
    "welch_difference",
]
