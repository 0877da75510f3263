"""Ctrl-C: pressed once it ends the work in order, pressed again it ends it at once."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import typer

from srbench.errors import ExitCode


@contextmanager
def interruptible(
    note: Callable[[str], None], unit: str, then: Callable[..., Any] | None = None
) -> Iterator[Callable[[], bool]]:
    """A question whether Ctrl-C was pressed; pressed a second time it raises KeyboardInterrupt.

    Args:
        note: Told what the first one does.
        unit: What is finished before the end.
        then: Handler of further ones after the work, where there was a first; None is the one of
            before.
    """
    pressed = False

    def first(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        note(f"finishing the current {unit}; Ctrl-C again stops at once")

    previous = signal.signal(signal.SIGINT, first)
    # Whoever sends this one does not wait for anything to end.
    terminated = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, then if pressed and then else previous)
        signal.signal(signal.SIGTERM, terminated)


@contextmanager
def saying_so(hint: str = "") -> Iterator[None]:
    """Ctrl-C ends a command at once, in one line."""
    try:
        yield
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        typer.echo(f"srbench: interrupted{hint}", err=True)
        raise typer.Exit(int(ExitCode.INTERRUPTED)) from None
