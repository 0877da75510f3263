"""Advisory locks: the kernel lets go of them when their holder dies, however it dies."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from srbench.errors import UsageError


def try_lock(file: IO[bytes] | int, path: Path) -> bool:
    """Lock an open file or folder until it is closed; False where another process holds it.

    Raises:
        UsageError: The file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be locked ({error.strerror}); choose a folder on a file system that "
            "has locks"
        ) from error
    return True


@contextmanager
def measuring_into(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder: two that measure at once measure each other.

    Raises:
        UsageError: Another process is measuring into it.
    """
    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b")
    except OSError as error:
        raise UsageError(f"{path}: cannot write ({error.strerror})") from error
    with file:
        if not try_lock(file, path):
            file.seek(0)
            holder = file.read().decode(errors="replace").strip() or "unknown"
            raise UsageError(
                f"{folder}: another srbench run (process {holder}) is measuring into it; "
                "wait for it: two that measure at once measure each other"
            )
        # Only to be named in the message above; a full disk is found out by the first record.
        with contextlib.suppress(OSError):
            file.truncate(0)
            os.write(file.fileno(), f"{os.getpid()}\n".encode())
        yield
