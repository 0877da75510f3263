"""The record of a preparation: what was asked for, what was found, which photographs are finished.

One JSON document a line, appended as things happen, so a run that is killed at any moment goes on
where it stopped. Whole lines count; a torn last one is cut off. When everything is finished the
lines are put into order, so a finished folder is the same however often it was interrupted.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from pipelines.contract import PipelineError
from pipelines.srdiff.sources import Source

FILE_NAME = "manifest.jsonl"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Settings:
    """What decides the files of a prepared folder."""

    dataset: str
    scale: int
    crop_size: int
    windows: str
    val_every: int
    sources: tuple[Source, ...]
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class Scan:
    """What a photograph is.

    Attributes:
        source: Its number among the settings' sources.
        bytes: Of the file.
        sha256: Of the file.
        height: Of the picture, 0 where it cannot be decoded.
        width: Likewise.
        reason: Why it cannot be decoded, one line; empty where it can.
        notes: What decoding had to say.
    """

    source: int
    bytes: int
    sha256: str
    height: int = 0
    width: int = 0
    reason: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """A finished photograph: its first number in its split, its pairs, SHA-256 of their files."""

    source: int
    first: int
    count: int
    sha256: str


class Manifest:
    """An open manifest, locked by this process. Made by `open_manifest`."""

    def __init__(self, path: Path, file: IO[bytes], settings: Settings) -> None:
        self._path, self._file, self._settings = path, file, settings
        self.scans: dict[int, Scan] = {}
        self.done: dict[int, Done] = {}
        self._read()

    def add(self, record: Scan | Done) -> None:
        """Append a record; it stays after a kill."""
        self._keep(record)
        self._write(record)

    def finish(self) -> None:
        """Put the records into order."""
        scans = sorted(self.scans.values(), key=lambda record: record.source)
        done = sorted(self.done.values(), key=lambda record: record.source)
        temporary = self._path.with_name(f".{FILE_NAME}.part")
        content = _line(self._settings) + b"".join(map(_line, scans)) + b"".join(map(_line, done))
        try:
            temporary.write_bytes(content)
            temporary.replace(self._path)
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def _keep(self, record: Scan | Done) -> None:
        if isinstance(record, Scan):
            self.scans[record.source] = record
        else:
            self.done[record.source] = record

    def _write(self, record: Settings | Scan | Done) -> None:
        try:
            self._file.write(_line(record))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritable(self._path, error) from error

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content[: content.rfind(b"\n") + 1]
        self._file.truncate(len(whole))
        lines = whole.splitlines()
        if not lines:
            self._write(self._settings)
            return
        try:
            settings, *records = [_record(line) for line in lines]
            _check_settings(self._path.parent, settings, self._settings)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PipelineError(
                f"{self._path}: damaged, or not written by prepare; choose another --output"
            ) from error
        for record in records:
            self._keep(record)


@contextmanager
def open_manifest(folder: Path, settings: Settings) -> Iterator[Manifest]:
    """Begin or continue a prepared folder; no other process prepares into it meanwhile.

    Raises:
        PipelineError: The folder holds something else, was made with other settings, is in use, or
            cannot be written.
    """
    path = folder / FILE_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not path.exists() and any(folder.iterdir()):
            raise PipelineError(
                f"{folder}: not empty and not made by prepare; choose another --output"
            )
        file = path.open("a+b")
    except OSError as error:
        raise _unwritable(folder, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise PipelineError(f"{folder}: another prepare is writing into it") from error
        yield Manifest(path, file, settings)


def _line(record: Settings | Scan | Done) -> bytes:
    content = {"kind": type(record).__name__.lower()} | asdict(record)
    return json.dumps(content, separators=(",", ":")).encode() + b"\n"


def _record(line: bytes) -> Any:
    content = json.loads(line)
    match content.pop("kind"):
        case "settings":
            sources = tuple(Source(**source) for source in content.pop("sources"))
            return Settings(sources=sources, **content)
        case "scan":
            return Scan(notes=tuple(content.pop("notes")), **content)
        case "done":
            return Done(**content)
    raise ValueError("an unknown kind of record")


def _check_settings(folder: Path, there: Any, asked: Settings) -> None:
    for name in ("version", "dataset", "scale", "crop_size", "windows", "val_every"):
        old, new = getattr(there, name), getattr(asked, name)
        if old != new:
            raise PipelineError(
                f"{folder}: begun with {name.replace('_', '-')} {old}, now {new}; give the same "
                "settings or another --output"
            )
    if there.sources != asked.sources:
        changed = sorted(set(there.sources) ^ set(asked.sources))
        raise PipelineError(
            f"{folder}: begun with other pictures ({len(changed)} came or went, first "
            f"{changed[0].file}); choose another --output"
        )


def _unwritable(path: Path, error: OSError) -> PipelineError:
    return PipelineError(f"{path}: cannot write ({error.strerror or error})")
