"""What the combined report keeps of one run: its derived rows, none of its samples."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from srbench.records import Run
from srbench.report.model import Comparison, Row, block_count, build_model
from srbench.stats.speedup import Speedup, geometric_mean_blocks, speedup


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """One run, small enough that a thousand of them fit in memory.

    Attributes:
        run: Without its cells and fidelity records.
        node: The machine where it began: the card's identifier, else the host's.
        nodes: Every machine that a block of it was measured on.
        blocks: With any result.
        comparisons: One a candidate, without crops.
    """

    run: Run
    node: str
    nodes: frozenset[str]
    blocks: int
    comparisons: list[Comparison]

    def geomean(self, candidate: str, cases: Iterable[str]) -> Speedup | None:
        """Of a candidate over cases that it must all have; None where it lacks one."""
        ratios = next((c.ratios for c in self.comparisons if c.candidate == candidate), {})
        found = [ratios.get(case, {}) for case in cases]
        return speedup(geometric_mean_blocks(found)) if all(found) else None


def digest_run(run: Run) -> Digest:
    """Derive what is shown of a run; afterwards the run itself may be forgotten."""
    comparisons = [
        replace(each, rows=[_uncropped(row) for row in each.rows])
        for each in build_model(run).comparisons
    ]
    machines = (run.head.fingerprint, *run.machines.values())
    nodes = [
        str(facts.get("gpu_uuid") or facts.get("host") or run.head.run_id) for facts in machines
    ]
    return Digest(
        run=replace(run, cells=[], fidelity=[]),
        node=nodes[0],
        nodes=frozenset(nodes),
        blocks=block_count(run),
        comparisons=comparisons,
    )


def _uncropped(row: Row) -> Row:
    record = row.fidelity
    return row if record is None else replace(row, fidelity=replace(record, crops={}))
