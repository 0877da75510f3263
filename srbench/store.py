"""Results files: append-only JSON lines, safe against a kill at any moment."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import IO, Any, Self

from srbench.durable import sync_folder
from srbench.errors import UsageError, did_you_mean
from srbench.line_file import append_lines
from srbench.locks import try_lock
from srbench.records import (
    SCHEMA_VERSION,
    BlockRecord,
    CellRecord,
    EndRecord,
    FidelityRecord,
    Record,
    Run,
    RunRecord,
    Sample,
    VoidRecord,
)

SUFFIX = ".jsonl"
NOT_PROFILES = ("baselines", "noise")
"""Folders beside those of the profiles."""
_KINDS: dict[str, type[Record]] = {
    cls.kind: cls
    for cls in (RunRecord, CellRecord, FidelityRecord, BlockRecord, VoidRecord, EndRecord)
}


class RunWriter:
    """An open results file. It is locked while open, and every batch reaches the disk."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        """Use `create` or `resume`."""
        self.path = path
        self._file = file

    @classmethod
    @contextmanager
    def create(cls, root: Path, head: RunRecord) -> Iterator[Self]:
        """Start `root/<profile>/<run_id>.jsonl` with its first line.

        Raises:
            UsageError: The folder cannot be written.
        """
        path = root / head.profile / f"{head.run_id}{SUFFIX}"
        # Under its own name only with its first line in it: without one it is no results file.
        begun = path.with_name(f".{path.name}.begun")
        if path.exists():
            raise UsageError(f"{path}: exists already; no run is written over another")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = begun.open("xb", buffering=0)
        except OSError as error:
            raise UsageError(f"{path}: cannot write ({error.strerror})") from error
        with file:
            _hold(file, path)
            writer = cls(path, file)
            try:
                writer.append([head])
                begun.rename(path)
            finally:
                begun.unlink(missing_ok=True)
            sync_folder(path.parent)
            yield writer

    @classmethod
    @contextmanager
    def resume(cls, path: Path) -> Iterator[Self]:
        """Continue a file; a torn last line is cut off.

        Raises:
            UsageError: It cannot be written, or another process is writing it.
        """
        try:
            file = path.open("r+b", buffering=0)
        except OSError as error:
            raise UsageError(f"{path}: cannot write ({error.strerror})") from error
        with file:
            _hold(file, path)
            content = file.read()
            file.truncate(_sound_length(content))
            file.seek(0, os.SEEK_END)
            yield cls(path, file)

    def append(self, records: Iterable[Record]) -> None:
        """Write records and wait until the disk has them.

        Raises:
            InfrastructureError: The disk is full or gone.
        """
        append_lines(self._file, self.path, (record.to_json() for record in records))


def _hold(file: IO[bytes], path: Path) -> None:
    if not try_lock(file, path):
        raise UsageError(f"{path}: another srbench process is writing it")


def _sound_length(content: bytes) -> int:
    """Bytes up to the end of the last whole line."""
    end = content.rfind(b"\n") + 1
    last = content[content.rfind(b"\n", 0, max(end - 1, 0)) + 1 : end]
    return end if not last or _is_json(last) else end - len(last)


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


def read_run(path: Path) -> Run:
    """Read a results file.

    A torn last line is ignored. Of cells written twice (a block that was repeated after a resume)
    the later counts. Cells of a block that never finished are dropped, except those of the block
    in which a file without an end breaks off.

    Raises:
        UsageError: No such file, no results file, written by a newer srbench, or damaged.
    """
    lines = _lines(path)
    head = _head(path, lines)
    records = [_record(path, number, line) for number, line in enumerate(lines[1:], start=2)]
    cells: dict[tuple[int, str, str], CellRecord] = {}
    fidelity: dict[tuple[str, str, str], FidelityRecord] = {}
    finished: set[int] = set()
    voids: list[VoidRecord] = []
    ended, last_block = False, -1
    for record in records:
        match record:
            case CellRecord():
                cells[record.block, record.case, record.pipeline] = record
                last_block = record.block
            case FidelityRecord():
                fidelity[record.case, record.pipeline, record.reference] = record
            case BlockRecord():
                finished.add(record.block)
            case VoidRecord():
                voids.append(record)
                cells = {key: cell for key, cell in cells.items() if key[0] != record.block}
            case EndRecord():
                ended = not record.interrupted
    counted = finished if ended else finished | {last_block}
    return Run(
        head=head,
        cells=[cell for cell in cells.values() if cell.block in counted],
        fidelity=list(fidelity.values()),
        finished_blocks=finished,
        ended=ended,
        voids=voids,
    )


def _lines(path: Path) -> list[Any]:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise UsageError(f"{path}: no such results file") from error
    except OSError as error:
        raise UsageError(f"{path}: not readable ({error.strerror})") from error
    parts = content[: _sound_length(content)].splitlines()
    lines = []
    for number, part in enumerate(parts, start=1):
        try:
            lines.append(json.loads(part, parse_constant=_finite, parse_float=_finite))
        except ValueError as error:
            raise UsageError(f"{path}: line {number} is damaged (no JSON)") from error
    return lines


def _finite(text: str) -> float:
    """A number. NaN and infinity Python would read too; no record was written with one."""
    value = float(text)
    if not isfinite(value):
        raise ValueError(text)
    return value


def _head(path: Path, lines: list[Any]) -> RunRecord:
    first = lines[0] if lines else None
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
        for sample in line.get("samples", ()):
            Sample.from_json(sample)
        return kind.from_json(line)
    except (TypeError, AttributeError) as error:
        raise UsageError(f"{path}: line {number} is damaged ({error})") from error


def list_runs(root: Path) -> list[Path]:
    """Results files under a folder, oldest first (run ids begin with their time)."""
    found = (path for path in root.glob(f"*/*{SUFFIX}") if path.parent.name not in NOT_PROFILES)
    return sorted(found, key=lambda path: path.name)


def newest_run(root: Path) -> Path:
    """The newest results file.

    Raises:
        UsageError: There is none.
    """
    runs = list_runs(root)
    if not runs:
        raise UsageError(f"{root}: no results in it; `srbench run` makes some")
    return runs[-1]


def find_run(name: str, root: Path) -> Path:
    """A results file by path or by run id.

    Raises:
        UsageError: There is none, with a did-you-mean.
    """
    path = Path(name)
    if path.is_file():
        return path
    runs = list_runs(root)
    for run in runs:
        if run.stem == name:
            return run
    if path.suffix == SUFFIX or os.sep in name:
        raise UsageError(f"{name}: no such results file")
    hint = did_you_mean(name, [run.stem for run in runs]) if runs else ""
    raise UsageError(f"run '{name}': none of that id under {root}.{hint}")


def check_writable(folder: Path) -> None:
    """Make sure that a folder can be written, before anything is measured for it.

    Raises:
        UsageError: It cannot.
    """
    probe = folder / f".srbench-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(f"{folder}: cannot write there ({error.strerror})") from error
