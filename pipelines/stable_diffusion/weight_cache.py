"""Weights that this package writes itself, kept in the cache; torch-free."""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipelines.cache import cache_folder
from pipelines.contract import PipelineError

logger = logging.getLogger(__name__)


def cached(name: str, module: Sequence[str], needed_bytes: int) -> Path:
    """A weights folder in the cache, made where it is not there.

    Args:
        name: Of the folder; says all that decides its contents.
        module: A module with its arguments, run in a process of its own; it takes `--out`.
        needed_bytes: On the disk.

    Raises:
        PipelineError: The cache cannot be written, the disk is full, or the module fails.
    """
    folder = cache_folder() / "weights" / name
    if not folder.is_dir():
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with _one_at_a_time(folder):
                if not folder.is_dir():
                    _materialise(folder, module, needed_bytes)
        except OSError as error:
            raise PipelineError(unwritable(folder, error)) from error
    return folder


def unwritable(folder: Path, error: OSError) -> str:
    """What to tell where the cache cannot be written."""
    return (
        f"{folder}: the cache cannot be written ({error.strerror or error}); "
        "point SRBENCH_CACHE to a folder that can"
    )


def _materialise(folder: Path, module: Sequence[str], needed_bytes: int) -> None:
    """Write weights in a process of its own: this one stays free of torch."""
    free = shutil.disk_usage(folder.parent).free
    if free < needed_bytes:
        raise PipelineError(
            f"{folder.parent}: synthetic weights need {needed_bytes / 1e9:.1f} GB and "
            f"{free / 1e9:.1f} GB are free; point SRBENCH_CACHE elsewhere or use --weights mini"
        )
    logger.info("writing %s", folder)
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".writing-") as temporary:
        made = Path(temporary) / "weights"
        result = subprocess.run(
            [sys.executable, "-m", *module, "--out", str(made)],
            env={**os.environ, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        if result.returncode != 0:
            last = (result.stderr.strip().splitlines() or ["no message"])[-1]
            raise PipelineError(f"{folder}: the weights could not be written ({last})")
        made.rename(folder)


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    with (folder.parent / f".{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
