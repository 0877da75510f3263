"""What the statistics take from a `Run`: the samples, paired and by block."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import isfinite, log
from statistics import median

from srbench.errors import SrbenchError
from srbench.records import CellRecord, Run
from srbench.samples import fields_of, values_of
from srbench.stats.speedup import geometric_mean_blocks, paired_log_ratio

GEOMEAN = "geomean"
"""Key of the geometric mean over cases, beside their names."""


def baseline_arm(run: Run) -> str:
    """Name of the arm that the others are held against."""
    return run.head.pipelines[0]


def candidate_arms(run: Run) -> list[str]:
    """Names of the other arms."""
    return run.head.pipelines[1:]


def cells_of(run: Run, case: str, pipeline: str) -> list[CellRecord]:
    """One record a block, in block order; of a block measured again the last record counts."""
    return list(run.cells_by_arm().get((case, pipeline), ()))


def latencies_ms(run: Run, case: str, pipeline: str) -> list[float]:
    """All timed samples of the arm's cells that ended well, over all blocks."""
    return [
        time
        for cell in cells_of(run, case, pipeline)
        if cell.outcome == "ok"
        for time in times_ms(cell)
    ]


def times_ms(cell: CellRecord) -> list[float]:
    """Time of each image of a cell, ms, in order of execution."""
    return list(map(float, values_of(cell.samples, "latency_ms")))


def stages_ms(run: Run, case: str, pipeline: str) -> dict[str, list[float]]:
    """Stage -> time of each image of the arm's cells that ended well; 0 where an image lacks it."""
    cells = [cell for cell in cells_of(run, case, pipeline) if cell.outcome == "ok"]
    timed = [(fields_of(cell.samples, "stages_ms"), len(cell.samples)) for cell in cells]
    stages = dict.fromkeys(name for times, _ in timed for name in times)
    return {
        name: [time or 0.0 for times, count in timed for time in times.get(name, [None] * count)]
        for name in stages
    }


def block_log_ratios(
    run: Run, case: str, candidate: str, reference: str | None = None
) -> dict[int, float]:
    """Block -> d of the case, over the blocks where both arms ended well.

    Args:
        run: The run.
        case: Its case.
        candidate: An arm.
        reference: The arm it is held against; the baseline when None.

    Raises:
        SrbenchError: A stored latency is no finite number above zero.
    """
    ratios: dict[int, float] = {}
    for other, cell in _good_blocks(run, case, candidate, reference or baseline_arm(run)):
        ratio = paired_log_ratio(_by_pair(run, other), _by_pair(run, cell))
        if ratio is not None:
            ratios[cell.block] = ratio
    return ratios


def measured_ratios(run: Run, candidate: str, cases: Iterable[str]) -> dict[str, dict[int, float]]:
    """Case -> block -> d, over the cases that have a timed pair of both arms."""
    found = {case: block_log_ratios(run, case, candidate) for case in cases}
    return {case: ratios for case, ratios in found.items() if ratios}


def with_geomean(cells: Mapping[str, Mapping[int, float]]) -> dict[str, list[float]]:
    """Case -> d of its blocks, and the block means over cases as `geomean`.

    With a single case the mean would only repeat it; without a block that all cases have there is
    none.
    """
    values = {case: list(ratios.values()) for case, ratios in cells.items()}
    means = geometric_mean_blocks(list(cells.values())) if len(cells) > 1 else []
    return values | ({GEOMEAN: means} if means else {})


def order_log_ratios(run: Run, case: str, candidate: str) -> dict[int, float]:
    """Block -> what going second in a pair adds to the log time of an image.

    Half of what separates d of the pairs that the baseline opened from d of those that the
    candidate opened; any difference between the arms is in both and cancels. A block without
    pairs of both kinds says nothing and is left out.
    """
    effects: dict[int, float] = {}
    for other, cell in _good_blocks(run, case, candidate, baseline_arm(run)):
        ours, theirs = _by_pair(run, cell), _by_pair(run, other)
        turns = dict(_turns(cell))
        opened: tuple[list[float], list[float]] = ([], [])
        for pair, position in _turns(other):
            if pair in ours:
                candidate_first = turns[pair] < position
                opened[candidate_first].append(log(ours[pair] / theirs[pair]))
        if all(opened):
            effects[cell.block] = (median(opened[0]) - median(opened[1])) / 2
    return effects


def _good_blocks(
    run: Run, case: str, candidate: str, reference: str
) -> Iterator[tuple[CellRecord, CellRecord]]:
    """The reference's and the candidate's cell of each block in which both ended well."""
    others = {cell.block: cell for cell in cells_of(run, case, reference)}
    for cell in cells_of(run, case, candidate):
        other = others.get(cell.block)
        if other is not None and cell.outcome == other.outcome == "ok":
            yield other, cell


def _turns(cell: CellRecord) -> Iterator[tuple[int, int]]:
    """Pair and order of execution of each image."""
    return zip(*(values_of(cell.samples, key) for key in ("pair", "position")), strict=True)


def _by_pair(run: Run, cell: CellRecord) -> dict[int, float]:
    times = dict(zip(values_of(cell.samples, "pair"), times_ms(cell), strict=True))
    if not all(isfinite(time) and time > 0 for time in times.values()):
        raise SrbenchError(
            f"run {run.head.run_id}: a latency of {cell.case} {cell.pipeline} in block "
            f"{cell.block} is no time above 0 ms: the file is damaged, measure again"
        )
    return times
