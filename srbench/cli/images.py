"""The command upscale, and the room of those around weights."""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipelines.contract import Precision, WeightsSource
from srbench.batch_results import Fate, Result, Summary
from srbench.cli import weights as weights_room
from srbench.cli.batch import print_json, upscale_folder
from srbench.cli.crews import Actors, hired, threads_here
from srbench.cli.devices import Device, choose_device
from srbench.cli.executor import Address, Executor, asks_for_ray
from srbench.cli.interrupts import saying_so
from srbench.config import MAX_SEED
from srbench.errors import UsageError

if TYPE_CHECKING:
    from srbench.batch import Conduct
    from srbench.upscaling import Files, Request
    from srbench.upscaling_journal import Journal

Weights = Annotated[
    str | None,
    typer.Option(
        help="S3Diff's or OSEDiff's folder, an SRDiff checkpoint, `mini` or `synthetic` "
        "[default: SRBENCH_WEIGHTS, hub cache]"
    ),
]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(upscale)
    weights_room.register(app)


def upscale(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="Image or folder of images.")],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Image or folder.")],
    pipeline: Annotated[str, typer.Option(help="Pipeline name or module:attribute.")],
    scale: Annotated[int, typer.Option(help="Whole factor, 1 to 8.")],
    weights: Weights = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the noise of the first sample.", min=0, max=MAX_SEED)
    ] = 0,
    samples: Annotated[
        int | None,
        typer.Option(help="That many pictures an image, into OUTPUT/sample-0000/ and on.", min=1),
    ] = None,
    color_fix: Annotated[
        str | None,
        typer.Option(help="`wavelet`, `adain` or `none` [default: the pipeline's own]"),
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="`fp32` or `fp16` [default: fp16 on cuda, fp32 on cpu]")
    ] = None,
    device: Device = "auto",
    executor: Executor = None,
    address: Address = None,
    actors: Actors = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is in an output folder already.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Pipeline option.")
    ] = None,
) -> None:
    """Upscale an image or a folder of images.

    Folders in a folder come too. The same command goes on after an interruption: what it has made
    of the same input, pipeline, options, weights and seed is not made again.
    """
    from srbench.upscaling import check_options, check_scale, plan_files, plan_samples

    check_scale(scale)
    remote = asks_for_ray(executor, {"--address": address, "--actors": actors})
    options = check_options(pipeline, assignments or [], color_fix)
    _precision(precision)
    if samples is None:
        files = plan_files(source, target)
    else:
        files = plan_samples(source, target, samples, seed)
    is_batch = samples is not None or source.is_dir()
    if remote and not is_batch:
        raise UsageError("--executor ray: for folders; without it one picture is upscaled here")
    asked = _Asked(pipeline, options, files, scale, seed, precision, weights)
    with _journal(target, files, overwrite=overwrite) if is_batch else nullcontext() as journal:
        if journal is None:
            with saying_so():
                _upscale_file(*asked.on(choose_device(device)), as_json=as_json)
            return
        how = {"overwrite": overwrite, "as_json": as_json}
        others = _other_files(source, target)
        if remote:
            _upscale_on_ray(asked, journal, others, address, device, actors, **how)
        else:
            request, chosen = asked.on(choose_device(device))
            batch = partial(_upscale_here, request, chosen, journal)
            upscale_folder(request, batch, others, **how)


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the user asks for, wherever it is done."""

    pipeline: str
    options: Any
    files: Files
    scale: int
    seed: int
    precision: str | None
    weights: str | None

    def on(self, device: str) -> tuple[Request, WeightsSource]:
        """The same on `cpu` or `cuda`, with the weights that are used here."""
        from srbench.systems import resolve_weights
        from srbench.upscaling import Request

        request = Request(
            pipeline=self.pipeline,
            options=self.options,
            files=self.files,
            scale=self.scale,
            seed=self.seed,
            device=device,
            precision=_precision(self.precision or ("fp16" if device == "cuda" else "fp32")),
        )
        chosen = resolve_weights([self.pipeline], self.weights, device)
        if chosen.synthetic:
            _note(f"weights: {chosen.kind}, synthetic: nothing in them was trained")
        return request, chosen

    def named(self, chosen: WeightsSource) -> str | None:
        """What finds the same weights on another machine; None is the default there."""
        if chosen.kind != "folder":
            return chosen.kind
        name = self.weights or os.environ.get("SRBENCH_WEIGHTS")
        return None if name is None else str(Path(name).expanduser().absolute())


def _upscale_here(
    request: Request, weights: WeightsSource, journal: Journal, conduct: Conduct
) -> Generator[Result]:
    from srbench.batch import upscale_batch

    return upscale_batch(request, weights, journal, conduct)


def _upscale_on_ray(
    asked: _Asked,
    journal: Journal,
    others: int,
    address: str | None,
    device: str,
    actors: int | None,
    *,
    overwrite: bool,
    as_json: bool,
) -> None:
    from srbench.executors.upscaling import Painting, upscale_on_ray
    from srbench.painting import Painter

    with saying_so("; the same command goes on"), hired(address, device, actors, _note) as there:
        request, chosen = asked.on(there.device)
        painting = Painting(
            replace(request, files=[]),
            asked.named(chosen),
            chosen.digest,
            Painter(request, chosen, _note).version,
            threads_here(),
        )

        def batch(conduct: Conduct) -> Generator[Result]:
            return upscale_on_ray(
                there.ray, there.choose, painting, request, chosen, journal, conduct
            )

        upscale_folder(
            request,
            batch,
            others,
            overwrite=overwrite,
            as_json=as_json,
            actors=there.crew.actors,
        )


@contextmanager
def _journal(target: Path, files: Files, *, overwrite: bool) -> Iterator[Journal]:
    """The journal of an output folder, in which nothing is at stake that is not in it."""
    from srbench.upscaling_journal import Journal

    with Journal.open(target) as journal:
        if not overwrite:
            journal.refuse_unknown(output for _, outputs in files for output in outputs)
        yield journal


def _other_files(source: Path, target: Path) -> int:
    from srbench.images import find_images

    return find_images(source, target)[1] if source.is_dir() else 0


def _upscale_file(request: Request, weights: WeightsSource, *, as_json: bool) -> None:
    from srbench.upscaling import upscale_files

    start = time.monotonic()
    for written in upscale_files(request, weights, _note):
        if not as_json:
            typer.echo(str(written))
    if as_json:
        ((source, outputs),) = request.files
        seconds = time.monotonic() - start
        done = Result(source, Fate.WRITTEN, outputs, seconds)
        print_json(Summary((done,), 0, 0, seconds))


def _precision(name: str | None) -> Precision:
    try:
        return Precision(name or "fp32")
    except ValueError as error:
        raise UsageError(f"--precision {name}: expected fp32 or fp16") from error


def _note(text: str) -> None:
    typer.echo(text, err=True)
