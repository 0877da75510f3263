"""Statistics of paired runs: pure functions over lists of floats, nothing here touches a device.

The unit of replication is the block (a fresh pair of worker processes): iterations inside one
process share its memory layout, clocks and neighbours and are not independent (Kalibera and Jones,
"Rigorous benchmarking in reasonable time", ISMM 2013).
"""

from srbench.stats.effects import Effect, one_sample, pooled_difference, welch_difference
from srbench.stats.power import (
    minimum_detectable_difference,
    minimum_detectable_effect,
    required_blocks,
)
from srbench.stats.sequential import (
    Decision,
    Look,
    decide,
    holm,
    is_decided,
    look_against,
    look_for,
)
from srbench.stats.signflip import sign_flip_p
from srbench.stats.simultaneous import simultaneous_intervals
from srbench.stats.speedup import Speedup, geometric_mean_blocks, paired_log_ratio, speedup
from srbench.stats.steps import Segment, find_segments
from srbench.stats.summary import Summary, mad, median, quantile, summarize

__all__ = [
    "Decision",
    "Effect",
    "Look",
    "Segment",
    "Speedup",
    "Summary",
    "decide",
    "find_segments",
    "geometric_mean_blocks",
    "holm",
    "is_decided",
    "look_against",
    "look_for",
    "mad",
    "median",
    "minimum_detectable_difference",
    "minimum_detectable_effect",
    "one_sample",
    "paired_log_ratio",
    "pooled_difference",
    "quantile",
    "required_blocks",
    "sign_flip_p",
    "simultaneous_intervals",
    "speedup",
    "summarize",
    "welch_difference",
]
