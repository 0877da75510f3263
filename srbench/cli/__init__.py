"""The command line: commands in rooms of their own, errors turned into exit codes here.

stdout carries the result, stderr progress, logs and the one line of a non-zero exit.
"""

from __future__ import annotations

import signal
import sys
import traceback
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from typing import NoReturn

import typer

from pipelines.contract import PipelineError
from srbench.cli import aa as aa
from srbench.cli import demo as demo
from srbench.cli import evaluate as evaluate
from srbench.cli import export as export
from srbench.cli import images as images
from srbench.cli import inspect as inspect
from srbench.cli import judge as judge
from srbench.cli import ladder as ladder
from srbench.cli import measure as measure
from srbench.cli import roofline as roofline
from srbench.cli import simulate as simulate
from srbench.cli.streams import UntilClosed
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
_MEASURING = (measure, ladder, aa, simulate, roofline, inspect, judge, export)
_PICTURES = (images, evaluate, demo)
for _room in (*_MEASURING, *_PICTURES):
    _room.register(app)


def _leave(message: str, code: int) -> NoReturn:
    print(f"srbench: {one_line(message, 1000)}", file=sys.stderr)  # noqa: T201
    sys.exit(code)


def main() -> NoReturn:
    """Run one command and exit with its code."""
    with ExitStack() as stack:
        # Either is None where the shell has closed it.
        if sys.stdout is not None:
            stack.enter_context(redirect_stdout(UntilClosed(sys.stdout)))
        if sys.stderr is not None:
            stack.enter_context(redirect_stderr(UntilClosed(sys.stderr)))
        try:
            _run()
        except KeyboardInterrupt:
            _ended()
            sys.exit(ExitCode.INTERRUPTED)
        finally:
            _ended()


def _ended() -> None:
    """How the command ended stands: Ctrl-C is not heard any more while the interpreter leaves."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run() -> NoReturn:
    try:
        code = app(standalone_mode=True)
    except SrbenchError as error:
        _leave(str(error), error.exit_code)
    except PipelineError as error:
        _leave(str(error), ExitCode.USAGE)
    except KeyboardInterrupt:
        _ended()
        _leave("interrupted", ExitCode.INTERRUPTED)
    except OSError as error:
        _leave(str(error), ExitCode.INFRASTRUCTURE)
    except Exception as error:  # noqa: BLE001  Python's own exit code is the gate's "regression"
        traceback.print_exc()
        what = f"{type(error).__name__}: {error}"
        _leave(f"internal error: {what}; please report it", ExitCode.INFRASTRUCTURE)
    sys.exit(code)
