"""What has been measured already: one line a value, so that a killed evaluation goes on.

A value is known by what it was computed from: the contents of the files, the metric with its
variant and version, and the device. A picture that changed is measured anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from srbench.errors import UsageError
from srbench.fidelity.providers import Measurement
from srbench.line_file import LineFile

NAME = "measurements.jsonl"
_KIND = "measurements"
_HEAD = {"kind": _KIND, "schema_version": 1}
_REMEDY = "name another folder, or delete the file to measure anew"


class Journal:
    """Values by key, in memory and in an append-only file."""

    def __init__(self, file: LineFile) -> None:
        """Use `Journal.open`."""
        self._file = file
        self._known: dict[str, Measurement] = {}
        if not file.lines:
            file.append(_HEAD)
        elif file.lines[0] != _HEAD:
            raise UsageError(f"{file.path}: no journal of this srbench's evaluate; {_REMEDY}")
        for number, line in enumerate(file.lines[1:], start=2):
            try:
                found = Measurement(float(line["value"]), None, str(line["provider"]))
                self._known[line["key"]] = found
            except (ValueError, KeyError, TypeError) as error:
                raise file.damaged(number) from error

    @classmethod
    @contextmanager
    def open(cls, folder: Path) -> Iterator[Self]:
        """Begin or continue the journal of a folder; a torn last line is cut off.

        Raises:
            UsageError: It cannot be written, is no journal, is damaged, or another process has it.
        """
        path = folder / NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"{path}: cannot write ({error.strerror})") from error
        busy = f"{path}: another srbench process is writing it"
        with LineFile.open(path, kind=_KIND, busy=busy, remedy=_REMEDY) as file:
            yield cls(file)

    def recall(self, key: str) -> Measurement | None:
        """The value of a key; None where there is none yet."""
        return self._known.get(key)

    def enter(self, key: str, file: str, metric: str, found: Measurement) -> None:
        """Keep a value on the disk, once; what was not measured is not kept, it may be next time.

        Raises:
            InfrastructureError: The disk is full or gone.
        """
        if found.value is None or key in self._known:
            return
        self._known[key] = found
        line = {"key": key, "file": file, "metric": metric, "value": found.value}
        self._file.append({**line, "provider": found.provider})


def key_of(*parts: object) -> str:
    """A digest of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
