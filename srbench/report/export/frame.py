"""Every sample of some runs as one tidy table: a row is a timed image, nothing is rounded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.contract import STAGES
from srbench.records import CellRecord, Run
from srbench.samples import fields_of, values_of
from srbench.stats.runs import cells_of

if TYPE_CHECKING:
    import pandas as pd

Part = dict[str, list[Any]]
"""Column -> values."""

_PART_ROWS = 100_000
"""Rows that are held as Python's own numbers at a time."""
_CASE = re.compile(r"(\d+)x(\d+)x(\d+)")
_STATES = ("sm_clock_mhz", "power_w", "temperature_c", "throttle_reasons")
_TYPES = {
    "block": "Int64",
    "width": "Int64",
    "height": "Int64",
    "scale": "Int64",
    "pair": "Int64",
    "position": "Int64",
    "latency_ms": "float64",
    "gpu_ms": "float64",
}
_BEFORE = [
    *("run", "started_at", "purpose", "profile", "device", "precision"),
    *("block", "case", "width", "height", "scale", "pipeline", "pair", "position"),
    *("latency_ms", "gpu_ms"),
]
_AFTER = [
    *(f"{name}_{when}" for name in _STATES for when in ("before", "after")),
    *("output_sha256", "outcome", "reason"),
]


def frame(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a timed image, for notebooks; a cell without samples has one row with its outcome.

    Args:
        runs: Read with `srbench.store.read_run`.

    Returns:
        Columns `run`, `started_at`, `purpose`, `profile`, `device`, `precision`, `block`, `case`,
        `width`, `height` (pixels of the input), `scale`, `pipeline`, `pair`, `position`,
        `latency_ms`, `gpu_ms`, a `stage_<name>_ms` for each stage that any sample has,
        `sm_clock_mhz`, `power_w`, `temperature_c` and `throttle_reasons` each `_before` and
        `_after` the image, `output_sha256`, `outcome`, `reason`. Missing values are NA.
    """
    import pandas as pd

    return pd.concat([typed(part) for part in parts(runs)], ignore_index=True)


def typed(part: Part) -> pd.DataFrame:
    """Some rows as a frame; the types of its columns do not depend on the rows."""
    import pandas as pd

    table = pd.DataFrame(part)
    floats = [name for name in table.columns if name.startswith("stage_")]
    floats += [name for name in _AFTER if name.endswith(("_before", "_after"))]
    known = dict.fromkeys(floats, "float64") | _TYPES
    return table.astype({name: known.get(name, "string") for name in table.columns})


def parts(runs: Sequence[Run]) -> Iterator[Part]:
    """Column -> values of some rows after others, in the order of the runs' tables; None is NA.

    Every part has all columns, the stages in execution order; the first may have no rows.
    """
    names = _columns(runs)
    held: Part = {name: [] for name in names}
    for run, cell in _cells(runs):
        if len(held["run"]) >= _PART_ROWS:
            yield held
            held = {name: [] for name in names}
        count = max(1, len(cell.samples))
        common = _common(run, cell)
        own = _sampled(cell) if cell.samples else {}
        for name in names:
            if name in common:
                held[name] += [common[name]] * count
            else:
                held[name] += own.get(name) or [None] * count
    yield held


def _cells(runs: Iterable[Run]) -> Iterator[tuple[Run, CellRecord]]:
    for run in runs:
        for case in run.head.cases:
            for arm in run.head.pipelines:
                for cell in cells_of(run, case, arm):
                    yield run, cell


def _columns(runs: Sequence[Run]) -> dict[str, None]:
    """Names of all columns, in their order."""
    seen = {
        _stage_column(name)
        for _, cell in _cells(runs)
        for name in fields_of(cell.samples, "stages_ms")
    }
    order = [_stage_column(stage) for stage in STAGES]
    stages = [name for name in order if name in seen] + sorted(seen - set(order))
    return dict.fromkeys([*_BEFORE, *stages, *_AFTER])


def _common(run: Run, cell: CellRecord) -> dict[str, Any]:
    """What all rows of a cell have alike."""
    head = run.head
    size = _CASE.fullmatch(cell.case)
    width, height, scale = (int(part) for part in size.groups()) if size else (None, None, None)
    return {
        "run": head.run_id,
        "started_at": head.started_at,
        "purpose": head.purpose,
        "profile": head.profile,
        "device": head.device,
        "precision": head.precision,
        "block": cell.block,
        "case": cell.case,
        "width": width,
        "height": height,
        "scale": scale,
        "pipeline": cell.pipeline,
        "outcome": cell.outcome,
        "reason": cell.reason,
    }


def _sampled(cell: CellRecord) -> Part:
    """What each row of a cell has of its own."""
    found = {
        key: values_of(cell.samples, key) for key in ("pair", "position", "latency_ms", "gpu_ms")
    }
    stages = fields_of(cell.samples, "stages_ms")
    found |= {_stage_column(name): times for name, times in stages.items()}
    for when in ("before", "after"):
        state = fields_of(cell.samples, "state", when)
        found |= {f"{name}_{when}": state[name] for name in _STATES if name in state}
    digests = values_of(cell.samples, "output_sha256")
    return found | {"output_sha256": [digest or None for digest in digests]}


def _stage_column(stage: str) -> str:
    return f"stage_{stage}_ms"
