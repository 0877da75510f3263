"""The command that serves a page to try pipelines on."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from pipelines.contract import Precision
from srbench.cli.devices import Device, choose_device
from srbench.errors import ExitCode, UsageError


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(demo)


def demo(
    weights: Annotated[
        str | None,
        typer.Option(
            help="S3Diff's folder, an SRDiff checkpoint, `mini` or `synthetic` [default: "
            "SRBENCH_WEIGHTS, hub cache]"
        ),
    ] = None,
    pipelines: Annotated[
        str | None,
        typer.Option(
            metavar="A,B",
            help="The two to start with [default: the baseline and the optimized one of the "
            "weights' system]",
        ),
    ] = None,
    device: Device = "auto",
    precision: Annotated[
        str | None, typer.Option(help="`fp32` or `fp16` [default: fp16 on cuda, fp32 on cpu]")
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(help="Port; 0 takes any that is free.", min=0, max=65535)
    ] = 7860,
) -> None:
    """Serve a page where two pipelines upscale a picture of yours side by side."""
    from srbench.demo.server import address, open_socket, require_gradio, serve
    from srbench.demo.session import Session
    from srbench.scratch import run_folder
    from srbench.systems import resolve_weights

    require_gradio()
    pair = _pair(pipelines, weights)
    if precision not in (None, *Precision):
        raise UsageError(f"--precision {precision}: expected fp32 or fp16")
    with open_socket(host, port) as listening:
        place = choose_device(device)
        chosen = resolve_weights(pair, weights, place)
        if chosen.synthetic:
            typer.echo(f"weights: {chosen.kind}, synthetic: nothing in them was trained", err=True)
        arithmetic = Precision(precision or ("fp16" if place == "cuda" else "fp32"))
        try:
            with run_folder() as folder:
                typer.echo(f"demo: {address(listening)} (Ctrl-C ends it)")
                serve(Session(chosen, place, arithmetic), pair, listening, folder)
        except KeyboardInterrupt:
            typer.echo("srbench: interrupted", err=True)
            sys.stdout.flush()
            # A thread that computes a picture would keep the interpreter alive to its end.
            os._exit(ExitCode.INTERRUPTED)


def _pair(pipelines: str | None, weights: str | None) -> tuple[str, str]:
    """A and B.

    Raises:
        UsageError: Not two names of one system.
    """
    from pathlib import Path

    from srbench.systems import S3DIFF, common_system
    from srbench.weights import system_of_weights

    if pipelines is None:
        named = weights or os.environ.get("SRBENCH_WEIGHTS") or "mini"
        of_path = named not in ("mini", "synthetic")
        system = system_of_weights(Path(named).expanduser()) if of_path else S3DIFF
        return system.baseline, f"{system.name}-optimized"
    names = [name.strip() for name in pipelines.split(",")]
    if len(names) != 2:
        raise UsageError(f"--pipelines {pipelines}: expected two names, A,B")
    common_system(names)
    return names[0], names[1]
