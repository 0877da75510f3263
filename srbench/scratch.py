"""The temporary folder of a run, the arrays kept in it, and what killed runs left of theirs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from srbench.errors import InfrastructureError, UsageError
from srbench.locks import try_lock

if TYPE_CHECKING:
    from numpy.typing import NDArray

_NAME = re.compile(r"srbench-\d+-\w+")


@contextmanager
def run_folder() -> Iterator[Path]:
    """A folder for one process's files, gone afterwards; those of dead processes go now.

    It is locked while its process lives. The process id in its name is for people: to a neighbour
    in another container that shares the temporary folder it means nothing.
    """
    _sweep(Path(tempfile.gettempdir()))
    folder, lock = _claim()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _claim() -> tuple[Path, int]:
    """A new folder and its lock; one that a neighbour swept before it was locked is given up."""
    while True:
        try:
            folder = Path(tempfile.mkdtemp(prefix=f"srbench-{os.getpid()}-"))
        except OSError as error:
            raise InfrastructureError(f"no temporary folder ({error.strerror})") from error
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            if try_lock(lock, folder) and folder.is_dir():
                return folder, lock
            os.close(lock)


def _sweep(root: Path) -> None:
    for folder in root.glob("srbench-*"):
        if not _NAME.fullmatch(folder.name):
            continue
        with contextlib.suppress(OSError, UsageError):
            if folder.stat().st_uid != os.getuid():
                continue
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if try_lock(lock, folder):
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)


def keep(values: NDArray[Any], prefix: str, name: str) -> str:
    """Write an array as `PREFIX-NAME.npy`; returns the file."""
    import numpy as np

    file = f"{prefix}-{name}.npy"
    np.save(file, values, allow_pickle=False)
    return file


def keep_if(values: NDArray[Any] | None, prefix: str, name: str) -> str | None:
    """Write an array if there is one."""
    return None if values is None else keep(values, prefix, name)


def kept(file: str | None) -> Any:
    """Read an array back; None where there is none."""
    import numpy as np

    return None if file is None else np.load(file, allow_pickle=False)
