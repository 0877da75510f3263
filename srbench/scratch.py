"""The temporary folder of a run, and what killed runs left of theirs."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NAME = re.compile(r"srbench-(\d+)-\w+")


@contextmanager
def run_folder() -> Iterator[Path]:
    """A folder for one process's files, gone afterwards; those of dead processes go now."""
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=f"srbench-{os.getpid()}-") as folder:
        yield Path(folder)


def _sweep(root: Path) -> None:
    for folder in root.glob("srbench-*"):
        named = _NAME.fullmatch(folder.name)
        with contextlib.suppress(OSError):
            mine = folder.stat().st_uid == os.getuid()
            if named and mine and not Path(f"/proc/{named[1]}").exists():
                shutil.rmtree(folder, ignore_errors=True)
