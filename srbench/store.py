"""Results files: append-only JSON lines, safe against a kill at any moment."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, NoReturn, Self

from srbench.durable import sync_folder
from srbench.errors import UsageError, did_you_mean
from srbench.line_file import append_lines
from srbench.locks import try_lock
from srbench.records import Record, RunRecord
from srbench.run_file import read_head as read_head
from srbench.run_file import read_run as read_run
from srbench.run_file import sound_length

SUFFIX = ".jsonl"
NOT_PROFILES = ("baselines", "noise")
"""Folders beside those of the profiles."""


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
            file.truncate(sound_length(file))
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
    return find_runs([name], root)[0]


def find_runs(names: Iterable[str], root: Path) -> list[Path]:
    """Results files by paths or run ids, in the order of the names.

    Raises:
        UsageError: There is none of some name, with a did-you-mean.
    """
    known: dict[str, Path] = {}
    found = []
    for name in names:
        path = Path(name)
        if not path.is_file():
            known = known or {run.stem: run for run in reversed(list_runs(root))}
            path = known.get(name) or _unknown(name, root)
        found.append(path)
    return found


def runs_of(group: str, root: Path) -> list[Path]:
    """Results files of the runs that one command began, oldest first.

    Raises:
        UsageError: There is none; files that cannot be read are none.
    """
    found = [path for path in list_runs(root) if _group(path) == group]
    if not found:
        raise UsageError(
            f"--group {group}: no run of it under {root}; `srbench show` tells a run's"
        )
    return found


def _group(path: Path) -> str | None:
    try:
        return read_head(path).group
    except UsageError:
        return None


def _unknown(name: str, root: Path) -> NoReturn:
    path = Path(name)
    runs = list_runs(root)
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
