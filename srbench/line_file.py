"""Files of JSON lines that only grow: one writer at a time, and a kill loses nothing in them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Self

from srbench.errors import InfrastructureError, UsageError
from srbench.locks import try_lock


class LineFile:
    """An open file, locked until it is closed.

    Attributes:
        path: Of it.
        lines: What was in it when it was opened.
    """

    def __init__(self, path: Path, file: IO[bytes], lines: list[Any], remedy: str) -> None:
        """Use `open`."""
        self.path = path
        self.lines = lines
        self._file = file
        self._remedy = remedy

    @classmethod
    @contextmanager
    def open(cls, path: Path, *, busy: str, remedy: str) -> Iterator[Self]:
        """Begin a file or go on with one, whose last line is cut off where it is torn.

        Args:
            path: In a folder that exists.
            busy: What to say where another process has it open.
            remedy: What a user can do about a damaged one.

        Raises:
            UsageError: Busy, damaged, or not to be written.
        """
        try:
            file = path.open("a+b", buffering=0)
        except OSError as error:
            raise UsageError(f"{path}: cannot write ({error.strerror})") from error
        with file:
            if not try_lock(file, path):
                raise UsageError(busy)
            file.seek(0)
            opened = cls(path, file, [], remedy)
            file.truncate(opened._read(file.read()))
            yield opened

    def append(self, line: dict[str, Any]) -> None:
        """Write a line and wait until the disk has it.

        Raises:
            InfrastructureError: The disk is full or gone.
        """
        # Unbuffered, or closing the file would try again what a full disk refused.
        rest = memoryview(json.dumps(line, allow_nan=False).encode() + b"\n")
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        except OSError as error:
            raise InfrastructureError(f"{self.path}: cannot write ({error.strerror})") from error

    def damaged(self, number: int) -> UsageError:
        """The error of a line, counted from 1, that says nothing sensible."""
        return UsageError(f"{self.path}: line {number} is damaged; {self._remedy}")

    def _read(self, content: bytes) -> int:
        """Take in the lines; returns the bytes up to the end of the last sound one."""
        length = 0
        parts = content.splitlines(keepends=True)
        for number, part in enumerate(parts, start=1):
            try:
                line = json.loads(part)
            except ValueError as error:
                if number < len(parts):
                    raise self.damaged(number) from error
                break
            if not part.endswith(b"\n"):
                break
            self.lines.append(line)
            length += len(part)
        return length
