"""Commands around pictures: upscale and evaluate."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.contract import Precision
from srbench.cli import weights as weights_room
from srbench.cli.devices import Device, choose_device
from srbench.config import MAX_SEED
from srbench.errors import UsageError

if TYPE_CHECKING:
    from srbench.fidelity.evaluate import Evaluation

Weights = Annotated[
    str | None,
    typer.Option(
        help="S3Diff's folder, an SRDiff checkpoint, `mini` or `synthetic` [default: "
        "SRBENCH_WEIGHTS, hub cache]"
    ),
]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(upscale)
    app.command()(evaluate)
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
    color_fix: Annotated[str | None, typer.Option(help="`wavelet`, `adain` or `none`.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="`fp32` or `fp16` [default: fp16 on cuda, fp32 on cpu]")
    ] = None,
    device: Device = "auto",
    assignments: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Pipeline option.")
    ] = None,
) -> None:
    """Upscale an image or a folder of images."""
    from srbench.systems import resolve_weights
    from srbench.upscaling import (
        Request,
        check_options,
        check_scale,
        plan_files,
        plan_samples,
        upscale_files,
    )

    check_scale(scale)
    options = check_options(pipeline, assignments or [], color_fix)
    _precision(precision)
    if samples is None:
        files = plan_files(source, target)
    else:
        files = plan_samples(source, target, samples, seed)
    place = choose_device(device)
    request = Request(
        pipeline=pipeline,
        options=options,
        files=files,
        scale=scale,
        seed=seed,
        device=place,
        precision=_precision(precision or ("fp16" if place == "cuda" else "fp32")),
    )
    chosen = resolve_weights([pipeline], weights, place)
    if chosen.synthetic:
        _note(f"weights: {chosen.kind}, synthetic: nothing in them was trained")
    for written in upscale_files(request, chosen, _note):
        typer.echo(str(written))


def evaluate(
    sr_dir: Annotated[
        Path, typer.Argument(help="Pictures to judge, or folders of samples (sample-0000, …).")
    ],
    hr_dir: Annotated[
        Path,
        typer.Argument(
            help="References, paired by name without suffix; or a root of DIV2K, or a prepared val."
        ),
    ],
    metrics: Annotated[str, typer.Option(help="Comma-separated names.")] = "psnr,ssim,lpips",
    lr_dir: Annotated[
        Path | None,
        typer.Option(help="Inputs, for lr_psnr [default: the layout's, else made of the HR]"),
    ] = None,
    scale: Annotated[
        int | None, typer.Option(help="Whole factor, 1 to 8 [default: from the sizes]")
    ] = None,
    crop: Annotated[
        bool, typer.Option("--crop", help="Cut references that are a little larger.")
    ] = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out and count what cannot be read.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    table: Annotated[
        Path | None, typer.Option("--csv", help="Also write the values to this file.")
    ] = None,
    provider: Annotated[str, typer.Option(help="`pyiqa` or `torchmetrics`.")] = "pyiqa",
    device: Device = "auto",
) -> None:
    """Measure pictures against references."""
    from srbench.fidelity.evaluate import evaluate as measure
    from srbench.fidelity.metrics import parse_metrics
    from srbench.fidelity.plan import Question, make_plan
    from srbench.upscaling import check_scale

    if scale is not None:
        check_scale(scale)
    names = tuple(parse_metrics(metrics))
    plan = make_plan(Question(sr_dir, hr_dir, names, lr_dir, scale, crop, skip_broken))
    found = measure(plan, choose_device(device), provider)
    if table is not None:
        _write_csv(table, found)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
    else:
        _print_table(found)
    for picture in found.skipped:
        _note(f"skipped: {picture.file}: {picture.reason}")


def _precision(name: str | None) -> Precision:
    try:
        return Precision(name or "fp32")
    except ValueError as error:
        raise UsageError(f"--precision {name}: expected fp32 or fp16") from error


def _note(text: str) -> None:
    typer.echo(text, err=True)


def _write_csv(path: Path, found: Evaluation) -> None:
    names = list(found.images[0].metrics)
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["file", *names])
            for scores in found.images:
                values = [scores.metrics[name] for name in names]
                writer.writerow([scores.file, *("" if v is None else repr(v) for v in values)])
    except OSError as error:
        raise UsageError(f"{path}: cannot write ({error.strerror})") from error


def _print_table(found: Evaluation) -> None:
    names = list(found.images[0].metrics)
    width = max(len(scores.file) for scores in found.images)
    columns = [max(10, len(name)) for name in names]
    rows = [(scores.file, scores.metrics) for scores in found.images]
    typer.echo(_row("", width, names, columns))
    for label, values in [*rows, ("mean", found.mean)]:
        cells = ["-" if values[n] is None else f"{values[n]:.4f}" for n in names]
        typer.echo(_row(label, width, cells, columns))
    for line in _definitions(found):
        typer.echo(line)
    reasons = {
        (name, reason) for scores in found.images for name, reason in scores.not_measured.items()
    }
    for name, reason in sorted(reasons):
        _note(f"{name}: not measured: {reason}")


def _row(label: str, width: int, cells: list[str], columns: list[int]) -> str:
    padded = (f"{cell:>{column}}" for cell, column in zip(cells, columns, strict=True))
    return " ".join([f"{label:{width}}", *padded])


def _definitions(found: Evaluation) -> Iterator[str]:
    for metric, provider in found.providers.items():
        yield f"{metric}: {provider}"
    if found.samples > 1:
        yield f"samples: {found.samples} a picture; other metrics than diversity are their means"
    if found.cropped:
        yield f"cropped: {found.cropped} of {len(found.images)} references cut to the picture"
    if found.skipped:
        yield f"skipped: {len(found.skipped)} pictures that cannot be read are not in the mean"
