"""What a process of the preparation does to one photograph: look at it, or cut it into pairs."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

from pipelines.contract import PipelineError
from pipelines.pictures import read_picture, write_png
from pipelines.srdiff.manifest import Done, Scan
from pipelines.srdiff.windows import Cutting


@dataclass(frozen=True, slots=True)
class Job:
    """One photograph to cut.

    Attributes:
        scan: What it was when the numbers were given out.
        path: The photograph.
        output: Folder of its split.
        split: `train` or `val`.
        first: Number of its first pair.
        count: Of its pairs.
        finished: SHA-256 of its files where an earlier run finished them, else empty.
    """

    scan: Scan
    path: Path
    output: Path
    split: str
    first: int
    count: int
    finished: str


def start_process() -> None:
    """Set up a process of the pool: Ctrl-C is the parent's, and its death is this one's too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)  # a killed parent stops nobody, and nobody would empty the queue


def scan_file(source: int, path: Path) -> Scan:
    """Decode a photograph and tell what it is.

    Raises:
        PipelineError: It cannot be read at all.
    """
    size, digest = _identity(path)
    notes: list[str] = []
    try:
        height, width, _ = read_picture(path, notes.append).shape
    except PipelineError as error:
        return Scan(source, size, digest, reason=str(error).removeprefix(f"{path}: "))
    said = tuple(line.removeprefix(f"{path}: ") for line in notes)
    return Scan(source, size, digest, height, width, notes=said)


def cut_file(job: Job, cutting: Cutting) -> Done:
    """Write the pairs of a photograph, unless an earlier run's are all there.

    Raises:
        PipelineError: The photograph changed since it was scanned, or a file cannot be written.
    """
    files = [
        (job.output / "X1" / name, job.output / f"X{cutting.scale}" / name)
        for name in (
            f"image_{number:04d}.png" for number in range(job.first, job.first + job.count)
        )
    ]
    if job.finished and _digest_of(files) == job.finished:
        return Done(job.scan.source, job.first, job.count, job.finished)
    if _identity(job.path) != (job.scan.bytes, job.scan.sha256):
        raise changed(job.path)
    pairs = cutting.pairs(job.split, read_picture(job.path))
    for (hr_file, lr_file), (hr, lr) in zip(files, pairs, strict=True):
        write_png(hr_file, hr)
        write_png(lr_file, lr)
    return Done(job.scan.source, job.first, job.count, _digest_of(files))


def changed(path: Path) -> PipelineError:
    """The error for a photograph that is not the one that was scanned."""
    return PipelineError(
        f"{path}: changed or gone since this --output was begun; put it back, or choose another "
        "--output"
    )


def _identity(path: Path) -> tuple[int, str]:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            return os.fstat(file.fileno()).st_size, digest
    except OSError as error:
        raise PipelineError(f"{path}: cannot read ({error.strerror or error})") from error


def _digest_of(files: list[tuple[Path, Path]]) -> str:
    digest = hashlib.sha256()
    for path in (path for pair in files for path in pair):
        if not path.is_file():
            return ""
        digest.update(path.read_bytes())
    return digest.hexdigest()
