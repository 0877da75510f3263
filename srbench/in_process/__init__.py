"""Two callables measured in turns inside this process: what a project's own test suite can do.

The blocks here are not fresh processes: memory layout, caches and clocks of one process are common
to all of them, so a verdict is weaker evidence than that of `srbench run`, and every record says
so.
"""

from srbench.in_process.measurement import Design, Measurement
from srbench.in_process.pictures import compare_pictures
from srbench.in_process.recording import alike, records_of, run_of

__all__ = ["Design", "Measurement", "alike", "compare_pictures", "records_of", "run_of"]
