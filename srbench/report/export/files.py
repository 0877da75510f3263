"""The content of an exported file, by the name of its format."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from io import BytesIO
from typing import Literal, get_args

from srbench.errors import UsageError
from srbench.records import Run
from srbench.report.export.benchmark import benchmark_document
from srbench.report.export.frame import columns, frame, rows

Format = Literal["csv", "parquet", "pytest-benchmark", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)
BINARY: tuple[Format, ...] = ("parquet",)
"""Formats that are no text and need `--output`."""


def export_bytes(runs: Sequence[Run], kind: Format) -> bytes:
    """The file's content.

    Args:
        runs: At least one; `pytest-benchmark` takes exactly one.
        kind: Format.

    Raises:
        UsageError: The format needs a package that is missing, or cannot hold these runs.
    """
    writers: dict[Format, Callable[[Sequence[Run]], bytes]] = {
        "csv": _csv,
        "parquet": _parquet,
        "pytest-benchmark": _benchmark,
        "json": _json,
    }
    return writers[kind](runs)


def _csv(runs: Sequence[Run]) -> bytes:
    return frame(runs).to_csv(index=False, lineterminator="\n").encode()


def _parquet(runs: Sequence[Run]) -> bytes:
    if find_spec("pyarrow") is None:
        raise UsageError("--format parquet: pyarrow is missing; pip install srbench[parquet]")
    buffer = BytesIO()
    frame(runs).to_parquet(buffer, engine="pyarrow", index=False)
    return buffer.getvalue()


def _json(runs: Sequence[Run]) -> bytes:
    found = [row for run in runs for row in rows(run)]
    names = columns(found)
    table = [{name: row.get(name) for name in names} for row in found]
    return (json.dumps(table, allow_nan=False) + "\n").encode()


def _benchmark(runs: Sequence[Run]) -> bytes:
    if len(runs) != 1:
        raise UsageError(
            "--format pytest-benchmark: a file holds one run; export each into a file of its own"
        )
    return (json.dumps(benchmark_document(runs[0]), indent=4, allow_nan=False) + "\n").encode()
