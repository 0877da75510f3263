"""Reading a results file: line by line, as strict in the middle as it is forgiving at the end."""

from __future__ import annotations

import json
import os
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import IO, Any, NoReturn

from srbench.errors import UsageError
from srbench.records import (
    SCHEMA_VERSION,
    BlockRecord,
    CellRecord,
    EndRecord,
    FidelityRecord,
    Record,
    Run,
    RunRecord,
    VoidRecord,
)
from srbench.samples import require_finite

_TAIL_BYTES = 1 << 16
"""What is read first of a file's end; lines that hold pictures are longer."""
_KINDS: dict[str, type[Record]] = {
    cls.kind: cls
    for cls in (RunRecord, CellRecord, FidelityRecord, BlockRecord, VoidRecord, EndRecord)
}


def sound_length(file: IO[bytes]) -> int:
    """Bytes up to the end of the last whole line that says anything; moves in the file."""
    size = file.seek(0, os.SEEK_END)
    tail = _TAIL_BYTES
    while True:
        start = max(0, size - tail)
        file.seek(start)
        content = file.read(size - start)
        end = content.rfind(b"\n") + 1
        begin = content.rfind(b"\n", 0, max(end - 1, 0)) + 1
        if begin > 0 or start == 0:
            break
        tail *= 8
    last = content[begin:end]
    return start + (end if not last or _is_json(last) else begin)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def read_run(path: Path) -> Run:
    """Read a results file, line by line.

    A torn last line is ignored. Of cells written twice (a block that was repeated after a resume)
    the later counts. Cells of a block that never finished are dropped, except those of the block
    in which a file without an end breaks off.

    Raises:
        UsageError: No such file, no results file, written by a newer srbench, or damaged.
    """
    lines = _lines(path)
    head = _head(path, next(lines, (1, None))[1])
    cells: dict[int, dict[tuple[str, str], CellRecord]] = {}
    fidelity: dict[tuple[str, str, str], FidelityRecord] = {}
    finished: set[int] = set()
    machines: dict[int, dict[str, Any]] = {}
    voids: list[VoidRecord] = []
    ended, last_block = False, -1
    for number, line in lines:
        match record := _record(path, number, line):
            case CellRecord():
                cells.setdefault(record.block, {})[record.case, record.pipeline] = record
                last_block = record.block
            case FidelityRecord():
                fidelity[record.case, record.pipeline, record.reference] = record
            case BlockRecord():
                finished.add(record.block)
                machines[record.block] = record.fingerprint
            case VoidRecord():
                voids.append(record)
                cells.pop(record.block, None)
            case EndRecord():
                ended = not record.interrupted
    counted = finished if ended else finished | {last_block}
    return Run(
        head=head,
        cells=[
            cell for block, found in cells.items() if block in counted for cell in found.values()
        ],
        fidelity=list(fidelity.values()),
        finished_blocks=finished,
        ended=ended,
        voids=voids,
        machines={block: facts for block, facts in machines.items() if facts},
    )


def _lines(path: Path) -> Generator[tuple[int, Any]]:
    """Each line's number, from 1, and what it says."""
    try:
        with path.open("rb") as file:
            left = sound_length(file)
            file.seek(0)
            for number, part in enumerate(file, start=1):
                left -= len(part)
                if left < 0:
                    return
                try:
                    yield number, json.loads(part, parse_constant=_refuse)
                except ValueError as error:
                    raise UsageError(f"{path}: line {number} is damaged (no JSON)") from error
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such results file") from error
    except OSError as error:
        raise UsageError(f"{path}: not readable ({error.strerror})") from error


def _refuse(text: str) -> NoReturn:
    """NaN and infinity, which Python would read; no record was written with one."""
    raise ValueError(text)


def _head(path: Path, first: Any) -> RunRecord:
    if not isinstance(first, dict) or first.get("kind") != RunRecord.kind:
        raise UsageError(f"{path}: not a results file of srbench, its first line is no run record")
    version = first.get("schema_version")
    if not isinstance(version, int):
        raise UsageError(f"{path}: its first line has no schema_version")
    if version > SCHEMA_VERSION:
        raise UsageError(
            f"{path}: schema_version {version} is newer than {SCHEMA_VERSION}, the newest that "
            "this srbench reads; upgrade srbench"
        )
    head = _record(path, 1, first)
    assert isinstance(head, RunRecord)
    for name in (head.run_id, head.profile, *head.cases, *head.pipelines):
        if not name.isprintable():
            raise UsageError(f"{path}: line 1 is damaged ({name!r} is no name)")
    return head


def _record(path: Path, number: int, line: Any) -> Record | None:
    """A line as its record; None for kinds that a later minor version added."""
    name = line.get("kind") if isinstance(line, dict) else None
    if not isinstance(name, str):
        raise UsageError(f"{path}: line {number} is damaged (no record)")
    kind = _KINDS.get(name)
    if kind is None:
        return None
    try:
        # Samples are looked through as they are put in columns.
        require_finite({key: value for key, value in line.items() if key != "samples"})
        return kind.from_json(line)
    except ValueError as error:
        raise UsageError(f"{path}: line {number} is damaged (no JSON)") from error
    except (TypeError, AttributeError) as error:
        raise UsageError(f"{path}: line {number} is damaged ({error})") from error


def read_head(path: Path) -> RunRecord:
    """Read what was decided of a run, its first line, however long the file is.

    Raises:
        UsageError: As `read_run` does for that line.
    """
    with closing(_lines(path)) as lines:
        return _head(path, next(lines, (1, None))[1])
