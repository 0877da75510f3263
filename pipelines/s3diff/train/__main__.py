"""Train S3Diff: `python -m pipelines.s3diff.train --help`.

`accelerate launch -m pipelines.s3diff.train ...` uses several GPUs.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.contract import PipelineError

_MOST_WORKERS = 8

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.command()
def train_command(
    data: Annotated[
        list[Path], typer.Option(help="Folder of photographs, searched to its depths; repeatable.")
    ],
    weights: Annotated[
        Path, typer.Option(help="sd-turbo/ and de_net.pth; with s3diff.pkl its adapters go on.")
    ],
    out: Annotated[
        Path, typer.Option(help="New folder, or one to continue: states, logs, checkpoints.")
    ],
    recipe: Annotated[str, typer.Option(help="published, mini, or a TOML file.")] = "published",
    validation: Annotated[
        Path | None, typer.Option(help="Folder of photographs that are only looked at.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Updates, instead of the recipe's.")] = None,
    chosen: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, instead of the recipe's.")
    ] = None,
    resume: Annotated[bool, typer.Option(help="Continue what is in --out.")] = True,
    workers: Annotated[
        int | None, typer.Option(min=0, help="Processes that prepare crops; by the device.")
    ] = None,
    copy_base: Annotated[
        bool,
        typer.Option(
            "--copy-base/--link-base",
            help="How sd-turbo/ and de_net.pth come into OUT/weights beside s3diff.pkl.",
        ),
    ] = False,
) -> None:
    """Train S3Diff's adapters; writes OUT/weights, which `srbench run --weights` takes."""
    from pipelines.s3diff.train.checkpoint import Base
    from pipelines.s3diff.train.run import Places, train
    from pipelines.s3diff.train.settings import read_settings

    places = Places(
        data=tuple(data),
        weights=weights,
        out=out,
        validation=validation,
        resume=resume,
        workers=_default_workers() if workers is None else workers,
        base=Base.COPY if copy_base else Base.LINK,
    )
    settings = read_settings(recipe, chosen or [], steps)
    outcome = train(settings, places, note=lambda line: typer.echo(line, err=True))
    if outcome.signal:
        typer.echo(f"stopped after step {outcome.step}; the same command continues there", err=True)
        raise typer.Exit(128 + outcome.signal)
    typer.echo(out / "weights" / "s3diff.pkl")


def _default_workers() -> int:
    """Crops are prepared beside a GPU, but would only take a CPU from the training."""
    import torch

    cores = len(os.sched_getaffinity(0))
    return min(_MOST_WORKERS, cores) if torch.cuda.is_available() else 0


def main() -> None:
    """Run the command; bad input is one line and exit code 2."""
    try:
        app()
    except (PipelineError, OSError) as error:
        typer.echo(f"train: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
