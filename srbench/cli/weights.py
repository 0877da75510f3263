"""Commands around weights: fetch, check, synthesize."""

from __future__ import annotations

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
        folder = resolve_weights(weights, choose_device("auto")).path
    problems = check_folder(folder)
    for problem in problems:
        typer.echo(problem)
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        raise UsageError(f"{folder}: {count}, listed above")
    for name, value in file_hashes(folder).items():
        typer.echo(f"{value}  {name}")
    typer.echo(f"{folder}: every tensor is there", err=True)


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

        typer.echo(f"finding the constants of seed {seed}", err=True)
        plan = calibrated(kind, seed, out.parent)
    write(out, plan)
    typer.echo(str(out))
