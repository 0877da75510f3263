"""Make the small model: `python -m pipelines.s3diff.mini --out DIR`.

Fetches free photographs, trains the degradation network, the VAE, the base networks and S3Diff's
adapters, and packs all of it into one file. An interrupted call goes on where it stopped.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.contract import PipelineError

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def command(
    out: Annotated[Path, typer.Option(help="New folder, or one to continue.")],
    threads: Annotated[
        int, typer.Option(min=1, help="Of the CPU; the weights depend on it in their last bits.")
    ] = 1,
) -> None:
    """Train the small S3Diff on free photographs."""
    import torch

    from pipelines.s3diff.mini.making import make

    torch.set_num_threads(threads)
    path = make(out, lambda line: typer.echo(line, err=True))
    if path is None:
        typer.echo("stopped; the same command continues", err=True)
        raise typer.Exit(1)
    typer.echo(str(path))


def main() -> None:
    """Run the command; bad input is one line and exit code 2."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        app()
    except (PipelineError, OSError) as error:
        typer.echo(f"mini: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
