"""Locks of folders, on file systems with and without them."""

import errno
import fcntl
import os
from pathlib import Path
from typing import Any

import pytest

from srbench.errors import UsageError
from srbench.locks import measuring_into


def test_a_file_system_without_locks_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(UsageError, match=r"\.lock: cannot be locked \(Function not"),
        measuring_into(tmp_path),
    ):
        raise AssertionError


def test_the_holder_is_named(tmp_path: Path) -> None:
    with (
        measuring_into(tmp_path),
        pytest.raises(UsageError, match=rf"process {os.getpid()}\) is measuring"),
        measuring_into(tmp_path),
    ):
        raise AssertionError
    with measuring_into(tmp_path):
        pass
