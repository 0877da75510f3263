"""stdout and stderr that outlive their readers."""

from __future__ import annotations

import io
import os
from typing import TextIO


class UntilClosed(io.TextIOBase):
    """A stream whose reader may leave early, as `head` does: what nobody reads is dropped.

    The command goes on, so that its files are written and its exit code is that of its result.
    """

    def __init__(self, stream: TextIO) -> None:
        """Write to a stream as long as somebody reads it."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write and flush."""
        try:
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(text.encode(self.encoding, "replace").decode(self.encoding))
            self._stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
        return len(text)

    def fileno(self) -> int:
        """Of the stream."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """Whether the stream is a terminal."""
        return self._stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Of the stream."""
        return self._stream.encoding
