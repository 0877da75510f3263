"""The content of an exported file, by the name of its format."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from importlib.util import find_spec
from io import BytesIO, StringIO
from itertools import chain
from typing import Literal, get_args

from srbench.errors import UsageError
from srbench.records import Run
from srbench.report.export.benchmark import benchmark_document
from srbench.report.export.frame import parts, typed

Format = Literal["csv", "parquet", "pytest-benchmark", "json"]
FORMATS: tuple[Format, ...] = get_args(Format)
BINARY: tuple[Format, ...] = ("parquet",)
"""Formats that are no text and need `--output`."""


def export_pieces(runs: Sequence[Run], kind: Format) -> Iterator[bytes]:
    """The file's content piece by piece: a million samples need not be in memory as text.

    Args:
        runs: At least one; `pytest-benchmark` takes exactly one.
        kind: Format.

    Raises:
        UsageError: At once, where the format needs a package that is missing or cannot hold these
            runs.
    """
    writers: dict[Format, Callable[[Sequence[Run]], Iterator[bytes]]] = {
        "csv": _csv,
        "parquet": _parquet,
        "pytest-benchmark": _benchmark,
        "json": _json,
    }
    return writers[kind](runs)


def _csv(runs: Sequence[Run]) -> Iterator[bytes]:
    for number, part in enumerate(parts(runs)):
        text = StringIO()
        lines = csv.writer(text, lineterminator="\n")
        if number == 0:
            lines.writerow(part)
        lines.writerows(zip(*part.values(), strict=True))
        yield text.getvalue().encode()


def _parquet(runs: Sequence[Run]) -> Iterator[bytes]:
    if find_spec("pyarrow") is None:
        raise UsageError("--format parquet: pyarrow is missing; pip install srbench[parquet]")
    return _row_groups(runs)


def _row_groups(runs: Sequence[Run]) -> Iterator[bytes]:
    import pyarrow as pa  # type: ignore[import-untyped]
    from pyarrow.parquet import ParquetWriter  # type: ignore[import-untyped]

    buffer = BytesIO()
    tables = (pa.Table.from_pandas(typed(part), preserve_index=False) for part in parts(runs))
    first = next(tables)
    with ParquetWriter(buffer, first.schema) as writer:
        for table in chain([first], tables):
            writer.write_table(table)
    yield buffer.getvalue()


def _json(runs: Sequence[Run]) -> Iterator[bytes]:
    comma = ""
    yield b"["
    for part in parts(runs):
        for values in zip(*part.values(), strict=True):
            row = dict(zip(part, values, strict=True))
            yield f"{comma}{json.dumps(row, allow_nan=False)}".encode()
            comma = ", "
    yield b"]\n"


def _benchmark(runs: Sequence[Run]) -> Iterator[bytes]:
    if len(runs) != 1:
        raise UsageError(
            "--format pytest-benchmark: a file holds one run; export each into a file of its own"
        )
    document = benchmark_document(runs[0])
    return iter([(json.dumps(document, indent=4, allow_nan=False) + "\n").encode()])
