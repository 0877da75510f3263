"""Files of JSON lines that only grow: one writer at a time, and a kill loses nothing in them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
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
    def open(cls, path: Path, *, kind: str, busy: str, remedy: str) -> Iterator[Self]:
        """Begin a file or go on with one, whose last line is cut off where it is torn.

        Args:
            path: In a folder that exists.
            kind: Value of the key with which its first line begins, which the caller appends to an
                empty file; one that begins otherwise is somebody else's and is not touched.
            busy: What to say where another process has it open.
            remedy: What a user can do about a damaged one.

        Raises:
            UsageError: Busy, not of this kind, damaged, or not to be written.
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
            content = file.read()
            # A kill may have torn even the first line.
            opening = json.dumps({"kind": kind}).removesuffix("}").encode()
            if not (content.startswith(opening) or opening.startswith(content)):
                raise opened.damaged(1)
            file.truncate(opened._read(content))
            yield opened

    def append(self, line: dict[str, Any]) -> None:
        """Write a line and wait until the disk has it.

        Raises:
            InfrastructureError: The disk is full or gone.
        """
        append_lines(self._file, self.path, [line])

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


def append_lines(file: IO[bytes], path: Path, lines: Iterable[dict[str, Any]]) -> None:
    """Write lines and wait until the disk has them.

    Args:
        file: Unbuffered, or closing it would try again what a full disk refused.
        path: Of it, for the message.
        lines: Of finite numbers.

    Raises:
        InfrastructureError: The disk is full or gone.
    """
    content = b"".join(json.dumps(line, allow_nan=False).encode() + b"\n" for line in lines)
    rest = memoryview(content)
    try:
        while rest:
            rest = rest[file.write(rest) :]
        os.fsync(file.fileno())
    except OSError as error:
        raise InfrastructureError(f"{path}: cannot write ({error.strerror})") from error
