"""The command line inside this process: seconds less than a process of its own."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from srbench.cli import main


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Srbench = Callable[..., Done]


@pytest.fixture
def srbench(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Srbench:
    """Run one command line in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["srbench", *map(str, arguments)])
        heard = signal.getsignal(signal.SIGINT)
        with pytest.raises(SystemExit) as exit_:
            main()
        signal.signal(signal.SIGINT, heard)  # a command that has ended hears Ctrl-C no more
        captured = capsys.readouterr()
        return Done(int(exit_.value.code or 0), captured.out, captured.err)

    return call
