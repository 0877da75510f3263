"""The command that hands runs to other programs: export."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from srbench.errors import UsageError, did_you_mean


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(export)


def export(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Results files or run ids.")],
    format_: Annotated[
        str, typer.Option("--format", help="csv, parquet, json or pytest-benchmark.")
    ] = "csv",
    output: Annotated[
        Path | None, typer.Option(help="File to write [default: stdout, not for parquet]")
    ] = None,
    results: Annotated[
        Path | None, typer.Option(help="Results folder with runs [default: results]")
    ] = None,
) -> None:
    """Write every sample of runs as a tidy table, or as pytest-benchmark's JSON."""
    from srbench.config import load_settings
    from srbench.report.export import BINARY, FORMATS, export_pieces
    from srbench.store import find_run, read_run

    if format_ not in FORMATS:
        raise UsageError(f"--format {format_}: unknown.{did_you_mean(format_, list(FORMATS))}")
    if format_ in BINARY and output is None:
        raise UsageError(f"--format {format_}: not text; name a file with --output")
    root = load_settings({"out": results}).out
    found = [read_run(find_run(run, root)) for run in runs]
    pieces = export_pieces(found, format_)
    if output is None:
        for piece in pieces:
            sys.stdout.write(piece.decode())
        return
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("wb") as file:
            file.writelines(pieces)
    except OSError as error:
        raise UsageError(f"--output {output}: cannot be written: {error.strerror}") from error
    typer.echo(str(output))
