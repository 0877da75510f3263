"""Commands around pictures and weights: upscale, evaluate, weights."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipelines.contract import Precision
from srbench.config import MAX_SEED
from srbench.errors import InfrastructureError, UsageError

if TYPE_CHECKING:
    from pipelines.s3diff.recipe import Size
    from srbench.fidelity.evaluate import Evaluation

Device = Annotated[str, typer.Option(help="`cpu`, `cuda` or `auto`.")]
Weights = Annotated[
    str | None,
    typer.Option(help="Folder, `mini` or `synthetic` [default: SRBENCH_WEIGHTS, hub cache]"),
]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(upscale)
    app.command()(evaluate)
    room = typer.Typer(no_args_is_help=True, help="Get, check or make weights.")
    room.command("fetch")(fetch)
    room.command("check")(check)
    room.command("synthesize")(synthesize)
    app.add_typer(room, name="weights")


def upscale(
    source: Annotated[Path, typer.Argument(metavar="INPUT", help="Image or folder of images.")],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="Image or folder.")],
    pipeline: Annotated[str, typer.Option(help="Pipeline name or module:attribute.")],
    scale: Annotated[int, typer.Option(help="Whole factor, 1 to 8.")],
    weights: Weights = None,
    seed: Annotated[
        int, typer.Option(help="Seed of the posterior noise.", min=0, max=MAX_SEED)
    ] = 0,
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
    from pipelines.s3diff.weight_sources import resolve_weights
    from srbench.upscaling import (
        Request,
        check_options,
        check_scale,
        plan_files,
        upscale_files,
    )

    check_scale(scale)
    options = check_options(pipeline, assignments or [], color_fix)
    _precision(precision)
    files = plan_files(source, target)
    place = _device(device)
    request = Request(
        pipeline=pipeline,
        options=options,
        files=files,
        scale=scale,
        seed=seed,
        device=place,
        precision=_precision(precision or ("fp16" if place == "cuda" else "fp32")),
    )
    chosen = resolve_weights(weights, place)
    if chosen.synthetic:
        _note(f"weights: {chosen.kind}, synthetic: nothing in them was trained")
    for written in upscale_files(request, chosen, _note):
        typer.echo(str(written))


def evaluate(
    sr_dir: Annotated[Path, typer.Argument(help="Pictures to judge.")],
    hr_dir: Annotated[Path, typer.Argument(help="References, paired by name without suffix.")],
    metrics: Annotated[str, typer.Option(help="Comma-separated names.")] = "psnr,ssim,lpips",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    table: Annotated[
        Path | None, typer.Option("--csv", help="Also write the values to this file.")
    ] = None,
    provider: Annotated[str, typer.Option(help="`pyiqa` or `torchmetrics`.")] = "pyiqa",
    device: Device = "auto",
) -> None:
    """Measure pictures against references."""
    from srbench.fidelity.evaluate import evaluate as measure
    from srbench.fidelity.evaluate import pair_by_stem
    from srbench.fidelity.metrics import parse_metrics

    names = parse_metrics(metrics)
    pair_by_stem(sr_dir, hr_dir)
    found = measure(sr_dir, hr_dir, names, _device(device), provider)
    if table is not None:
        _write_csv(table, found)
    if as_json:
        typer.echo(json.dumps(found.to_json(), indent=1))
    else:
        _print_table(found)


def fetch(
    metrics: Annotated[
        bool, typer.Option("--metrics", help="The networks of metrics (LPIPS) instead.")
    ] = False,
) -> None:
    """Download the published weights, or with --metrics those of LPIPS."""
    if metrics:
        from srbench.metrics_weights import fetch_lpips, torch_home

        fetched = fetch_lpips()
        typer.echo(f"{torch_home()}: LPIPS weights {'written' if fetched else 'already there'}")
        return
    from pipelines.s3diff.fetch import fetch as download

    try:
        typer.echo(str(download()))
    except ConnectionError as error:
        raise InfrastructureError(str(error)) from error


def check(
    weights: Annotated[
        str | None, typer.Argument(help="Folder, `mini` or `synthetic` [default: as in `run`]")
    ] = None,
) -> None:
    """Check names, shapes and hashes of weights: one line a problem."""
    from pipelines.s3diff.weight_sources import file_hashes, resolve_weights
    from pipelines.s3diff.weights import check_folder

    folder = (
        Path(weights).expanduser() if weights and weights not in ("mini", "synthetic") else None
    )
    if folder is None:
        folder = resolve_weights(weights, _device("auto")).path
    problems = check_folder(folder)
    for problem in problems:
        typer.echo(problem)
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise UsageError(f"{folder}: {count}, listed above")
    for name, value in file_hashes(folder).items():
        typer.echo(f"{value}  {name}")
    _note(f"{folder}: every tensor is there")


def synthesize(
    out: Annotated[Path, typer.Option(help="New folder.")],
    size: Annotated[str, typer.Option(help="`full` or `mini`.")] = "full",
    seed: Annotated[int, typer.Option(help="Other seeds take minutes: they are calibrated.")] = 0,
) -> None:
    """Write seeded weights of the published or a small architecture."""
    if size not in ("full", "mini"):
        raise UsageError(f"--size {size}: expected full or mini")
    if seed < 0:
        raise UsageError(f"--seed {seed}: expected a number from 0")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists already; name a new folder")
    from pipelines.s3diff.recipe import recipe
    from pipelines.s3diff.synthesize import synthesize as write

    kind: Size = "mini" if size == "mini" else "full"
    if seed == 0:
        plan = recipe(kind)
    else:
        from pipelines.s3diff.calibrate import calibrated

        _note(f"finding the constants of seed {seed}")
        plan = calibrated(kind, seed, out.parent)
    write(out, plan)
    typer.echo(str(out))


def _device(name: str) -> str:
    if name not in ("auto", "cpu", "cuda"):
        raise UsageError(f"--device {name}: expected cpu, cuda or auto")
    if name == "cpu":
        return name
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if name == "cuda":
        raise UsageError("--device cuda: no CUDA device here; use --device cpu")
    return "cpu"


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
    typer.echo(" ".join([" " * width, *(f"{name:>10}" for name in names)]))
    rows = [(scores.file, scores.metrics) for scores in found.images]
    for label, values in [*rows, ("mean", found.mean)]:
        cells = ["-" if values[n] is None else f"{values[n]:.4f}" for n in names]
        typer.echo(" ".join([f"{label:{width}}", *(f"{cell:>10}" for cell in cells)]))
    reasons = {
        (name, reason) for scores in found.images for name, reason in scores.not_measured.items()
    }
    for name, reason in sorted(reasons):
        _note(f"{name}: not measured: {reason}")
