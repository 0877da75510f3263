"""The command line: commands in rooms of their own, errors turned into exit codes here.

stdout carries the result, stderr progress, logs and the one line of a non-zero exit.
"""

from __future__ import annotations

import contextlib
import io
import os
import sys
import traceback
from typing import NoReturn, TextIO

import typer

from pipelines.contract import PipelineError
from srbench.cli import aa as aa
from srbench.cli import export as export
from srbench.cli import images as images
from srbench.cli import inspect as inspect
from srbench.cli import judge as judge
from srbench.cli import measure as measure
from srbench.cli import simulate as simulate
from srbench.errors import ExitCode, SrbenchError
from srbench.outcome import one_line

app = typer.Typer(
    name="srbench",
    help="Benchmark diffusion super-resolution: prove it got faster and the picture did not change."
    "\n\nExit codes: 0 pass, 1 regression or fidelity failure, 2 usage or input error, "
    "3 inconclusive, 4 infrastructure, 5 nothing comparable, 130 interrupted.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _room in (measure, aa, simulate, inspect, judge, export, images):
    _room.register(app)


class UntilClosed(io.TextIOBase):
    """A stdout whose reader may leave early, as `head` does: what nobody reads is dropped.

    The command goes on, so that its files are written and its exit code is that of its result.
    """

    def __init__(self, stream: TextIO) -> None:
        """Write to a stream as long as somebody reads it."""
        self._stream = stream

    def write(self, text: str) -> int:
        """Write and flush."""
        try:
            self._stream.write(text)
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


def _leave(message: str, code: int) -> NoReturn:
    print(f"srbench: {one_line(message, 1000)}", file=sys.stderr)  # noqa: T201
    sys.exit(code)


def main() -> NoReturn:
    """Run one command and exit with its code."""
    try:
        with contextlib.redirect_stdout(UntilClosed(sys.stdout)):
            code = app(standalone_mode=True)
    except SrbenchError as error:
        _leave(str(error), error.exit_code)
    except PipelineError as error:
        _leave(str(error), ExitCode.USAGE)
    except KeyboardInterrupt:
        _leave("interrupted", ExitCode.INTERRUPTED)
    except OSError as error:
        _leave(str(error), ExitCode.INFRASTRUCTURE)
    except Exception as error:  # noqa: BLE001  Python's own exit code is the gate's "regression"
        traceback.print_exc()
        what = f"{type(error).__name__}: {error}"
        _leave(f"internal error: {what}; please report it", ExitCode.INFRASTRUCTURE)
    sys.exit(code)
