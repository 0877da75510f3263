"""Cut a data set into pairs: `python -m pipelines.srdiff.prepare --help`.

First every photograph is decoded and measured, which decides the numbers of its pairs; then they
are cut. Both happen in a pool of processes and are recorded photograph by photograph, so the same
command goes on after a kill and gives the same bytes whatever the number of processes.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from pipelines.contract import PipelineError
from pipelines.pictures import Note
from pipelines.srdiff.cutting import Job, changed, cut_file, scan_file, start_process
from pipelines.srdiff.manifest import Done, Manifest, Scan, Settings, open_manifest
from pipelines.srdiff.sources import Dataset, Source, find_sources
from pipelines.srdiff.windows import Cutting, Rule

_PROGRESS_S = 5.0

Record = TypeVar("Record", Scan, Done)


@dataclass(frozen=True, slots=True)
class Skipped:
    """A photograph of which no pair is made, and why."""

    file: str
    reason: str


@dataclass(frozen=True, slots=True)
class Summary:
    """What a preparation left behind: pairs by split, photographs used and skipped."""

    pairs: dict[str, int]
    used: int
    skipped: tuple[Skipped, ...]


def prepare(
    root: Path,
    dataset: Dataset,
    output: Path,
    *,
    cutting: Cutting,
    val_every: int,
    workers: int,
    strict: bool,
    note: Note,
) -> Summary:
    """Make or complete `{train,val}/{X1,X<scale>}/image_%04d.png` below `output`.

    Args:
        root: Where the data set lies, see `find_sources`.
        dataset: Which one.
        output: A folder that is new, empty, or of an earlier run with the same settings.
        cutting: Rule, scale and window.
        val_every: See `find_sources`.
        workers: Processes.
        strict: A photograph that gives no pair is an error instead of being skipped.
        note: Told progress, and everything that is skipped or altered.

    Raises:
        PipelineError: One line that names what is wrong.
    """
    if cutting.crop_size < cutting.scale or cutting.crop_size % cutting.scale:
        raise PipelineError(
            f"--crop-size {cutting.crop_size}: must be a multiple of the scale {cutting.scale}"
        )
    if output.name.endswith("pickle"):
        raise PipelineError(
            f"{output}: pickles are not written, because reading one can run any program; give a "
            "folder for PNG files"
        )
    sources = find_sources(root, dataset, cutting.scale, val_every=val_every, note=note)
    recorded = val_every if dataset is Dataset.FOLDER else 0
    settings = Settings(
        str(dataset),
        cutting.scale,
        cutting.crop_size,
        str(cutting.rule),
        recorded,
        tuple(sources),
    )
    with open_manifest(output, settings) as manifest, _pool(workers) as pool:
        _scan(pool, manifest, root, sources, note)
        jobs, skipped = _plan(manifest, root, output, sources, cutting)
        _tell(manifest, sources, skipped, cutting, note)
        if not jobs or (strict and skipped):
            raise PipelineError(
                f"{root}: {len(skipped)} of {len(sources)} pictures cannot be used, first "
                f"{skipped[0].file}: {skipped[0].reason}"
            )
        _make_folders(output, jobs, cutting.scale)
        tasks = [partial(cut_file, job, cutting) for job in jobs]
        for done in _each(pool, tasks, "cut", note):
            if manifest.done.get(done.source) != done:
                manifest.add(done)
        manifest.finish()
    pairs = {
        split: sum(job.count for job in jobs if job.split == split) for split in ("train", "val")
    }
    return Summary(pairs, len(jobs), tuple(skipped))


@contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    # Spawned: a forked process would hold the lock and the queue's other end after a kill.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=start_process)
    try:
        yield pool
    except BrokenProcessPool as error:
        raise PipelineError(
            "a process of the preparation was killed (out of memory?); run the same command again "
            "with fewer --workers, what is finished is kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _each(
    pool: ProcessPoolExecutor, tasks: Sequence[Callable[[], Record]], verb: str, note: Note
) -> Iterator[Record]:
    """Results as they come, with a line of progress now and then."""
    futures: list[Future[Record]] = [pool.submit(task) for task in tasks]
    told = time.monotonic()
    for finished, future in enumerate(as_completed(futures), start=1):
        yield future.result()
        if time.monotonic() - told > _PROGRESS_S:
            note(f"{verb} {finished} of {len(tasks)} pictures")
            told = time.monotonic()


def _scan(
    pool: ProcessPoolExecutor, manifest: Manifest, root: Path, sources: list[Source], note: Note
) -> None:
    tasks = []
    for number, source in enumerate(sources):
        path = root / source.file
        known = manifest.scans.get(number)
        if known is None:
            tasks.append(partial(scan_file, number, path))
        elif path.stat().st_size != known.bytes:
            raise changed(path)
    for scan in _each(pool, tasks, "looked at", note):
        manifest.add(scan)


def _plan(
    manifest: Manifest, root: Path, output: Path, sources: list[Source], cutting: Cutting
) -> tuple[list[Job], list[Skipped]]:
    """Number the pairs of all photographs that have any."""
    jobs, skipped = [], []
    next_number = {"train": 0, "val": 0}
    for number, (file, split) in enumerate((source.file, source.split) for source in sources):
        scan = manifest.scans[number]
        count = len(cutting.windows(split, scan.height, scan.width))
        if scan.reason:
            skipped.append(Skipped(file, scan.reason))
        elif not count:
            size = f"{scan.width}x{scan.height} is too small for windows of {cutting.crop_size}"
            skipped.append(Skipped(file, size))
        else:
            first, done = next_number[split], manifest.done.get(number)
            finished = done.sha256 if done and (done.first, done.count) == (first, count) else ""
            jobs.append(Job(scan, root / file, output / split, split, first, count, finished))
            next_number[split] += count
    return jobs, skipped


def _tell(
    manifest: Manifest,
    sources: list[Source],
    skipped: list[Skipped],
    cutting: Cutting,
    note: Note,
) -> None:
    """Say what was altered or left out."""
    for number, source in enumerate(sources):
        for line in manifest.scans[number].notes:
            note(f"warning: {source.file}: {line}")
    for picture in skipped:
        note(f"warning: {picture.file}: {picture.reason}; skipped")
    if skipped:
        note(f"warning: {len(skipped)} of {len(sources)} pictures skipped")
    odd = [
        sources[number].split
        for number, scan in manifest.scans.items()
        if scan.height % cutting.scale or scan.width % cutting.scale
    ]
    multiple = f"a multiple of {cutting.scale}"
    if cutting.rule is Rule.AUTHORS and odd:
        note(f"sides of {len(odd)} of {len(sources)} pictures are cropped to {multiple}")
    elif "val" in odd:
        note(
            f"sides of {odd.count('val')} val pictures are not {multiple}: HR stays whole, LR "
            "sides are rounded up"
        )


def _make_folders(output: Path, jobs: list[Job], scale: int) -> None:
    try:
        for folder in {job.output for job in jobs}:
            for kind in ("X1", f"X{scale}"):
                (folder / kind).mkdir(parents=True, exist_ok=True)
                for left in (folder / kind).glob(".*.part"):
                    left.unlink()
    except OSError as error:
        raise PipelineError(f"{output}: cannot write ({error.strerror or error})") from error


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def command(
    root: Annotated[Path, typer.Option(help="Folder that holds the data set's folders.")],
    dataset: Annotated[Dataset, typer.Option(help="`folder`: the photographs in --root.")],
    output: Annotated[Path, typer.Option(help="New folder, or one to complete.")],
    scale: Annotated[int, typer.Option(min=2, help="Upscaling factor.")] = 4,
    crop_size: Annotated[int, typer.Option(min=1, help="Side of a training window.")] = 320,
    windows: Annotated[
        Rule,
        typer.Option(
            help="port: whole windows, the last one moved in, LR of each. authors: cut off at the "
            "border, half windows dropped, LR of the whole picture."
        ),
    ] = Rule.PORT,
    val_every: Annotated[
        int, typer.Option(min=0, help="For `folder`: every so many pictures one is for val.")
    ] = 10,
    workers: Annotated[int, typer.Option(min=0, help="Processes; 0 for one a processor core.")] = 0,
    strict: Annotated[
        bool, typer.Option("--strict", help="Fail where a picture would be skipped.")
    ] = False,
) -> None:
    """Cut a data set into `train|val/X1|X4/image_0000.png`, resumably and in parallel."""
    summary = prepare(
        root,
        dataset,
        output,
        cutting=Cutting(windows, scale, crop_size),
        val_every=val_every,
        workers=workers or len(os.sched_getaffinity(0)),
        strict=strict,
        note=lambda line: typer.echo(line, err=True),
    )
    typer.echo(
        f"{output}: {summary.pairs['train']} train and {summary.pairs['val']} val pairs of "
        f"{summary.used} pictures (x{scale}, windows of {crop_size}, rule {windows}); "
        f"{len(summary.skipped)} skipped"
    )


def main() -> None:
    """Run the command; bad input is one line and exit code 2."""
    try:
        app()
    except (PipelineError, OSError) as error:
        typer.echo(f"prepare: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
