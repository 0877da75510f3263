"""Every sample of some runs as one tidy table: a row is a timed image, nothing is rounded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from pipelines.contract import STAGES
from srbench.records import CellRecord, Run
from srbench.stats.runs import cells_of

if TYPE_CHECKING:
    import pandas as pd

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


def frame(runs: Iterable[Run]) -> pd.DataFrame:
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

    found = [row for run in runs for row in rows(run)]
    table = pd.DataFrame(found, columns=columns(found))
    floats = [name for name in table.columns if name.startswith("stage_")]
    floats += [name for name in _AFTER if name.endswith(("_before", "_after"))]
    return table.astype(dict.fromkeys(floats, "float64") | _TYPES)


def columns(found: Sequence[dict[str, Any]]) -> list[str]:
    """Names of the columns of some rows: the stages stand in execution order."""
    seen = {name for row in found for name in row if name.startswith("stage_")}
    order = [_stage_column(stage) for stage in STAGES]
    stages = [name for name in order if name in seen] + sorted(seen - set(order))
    return [*_BEFORE, *stages, *_AFTER]


def rows(run: Run) -> Iterator[dict[str, Any]]:
    """The rows of one run in the order of its tables; a key that is absent is missing."""
    for case in run.head.cases:
        for arm in run.head.pipelines:
            for cell in cells_of(run, case, arm):
                common = _common(run, cell)
                for sample in cell.samples or [{}]:
                    yield common | _sampled(sample)


def _common(run: Run, cell: CellRecord) -> dict[str, Any]:
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


def _sampled(sample: dict[str, Any]) -> dict[str, Any]:
    state = sample.get("state") or {}
    return {
        **{key: sample.get(key) for key in ("pair", "position", "latency_ms", "gpu_ms")},
        **{_stage_column(name): time for name, time in sample.get("stages_ms", {}).items()},
        **{
            f"{name}_{when}": (state.get(when) or {}).get(name)
            for name in _STATES
            for when in ("before", "after")
        },
        "output_sha256": sample.get("output_sha256") or None,
    }


def _stage_column(stage: str) -> str:
    return f"stage_{stage}_ms"
