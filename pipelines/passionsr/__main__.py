"""Calibrate a quantized one-step model: `python -m pipelines.passionsr --help`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from pipelines.contract import PipelineError, WeightsSource
from pipelines.passionsr.calibration.schedule import Degrading, System
from pipelines.passionsr.choices import Components
from pipelines.passionsr.settings import Mode

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command()
def calibrate_command(
    system: Annotated[System, typer.Option(help="Whose networks.")],
    weights: Annotated[
        str | None, typer.Option(help="Folder, mini or synthetic, as `srbench run` takes it.")
    ] = None,
    photos: Annotated[
        Path | None,
        typer.Option(help="Folder of photographs; without it those that scikit-image has."),
    ] = None,
    fetch_photos: Annotated[
        bool, typer.Option("--fetch-photos", help="Download the free ones that mini is made of.")
    ] = False,
    held_out: Annotated[
        Path | None, typer.Option(help="Folder of photographs that are only measured.")
    ] = None,
    bits: Annotated[int, typer.Option(min=2, max=8, help="Of weights and activations.")] = 8,
    components: Annotated[Components, typer.Option(help="Which networks.")] = "unet+vae",
    mode: Annotated[
        Mode, typer.Option(help="Corrected, or the published procedure with its bugs.")
    ] = "fixed",
    images: Annotated[int, typer.Option(help="Pairs of the calibration set.")] = 32,
    side: Annotated[int, typer.Option(help="Of the crops, in pixels; 512 published.")] = 512,
    degrading: Annotated[
        Degrading, typer.Option(help="In two orders, or by bicubic reduction alone.")
    ] = Degrading.REALISTIC,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of each stage.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of crops, degradations and orders.")] = 42,
    evaluation: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of pictures that no photograph may share; repeatable."),
    ] = None,
    allow_leaks: Annotated[
        bool, typer.Option("--allow-leaks", help="Only warn where one does.")
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="File; SYSTEM-wBaB.safetensors in --work.")
    ] = None,
    work: Annotated[
        Path, typer.Option(help="Folder of photographs, targets, states and logs.")
    ] = Path("runs/passionsr"),
    resume: Annotated[bool, typer.Option(help="Continue what is in --work.")] = True,
    threads: Annotated[
        int, typer.Option(min=1, help="Of the CPU; results depend on it in their last bits.")
    ] = 1,
) -> None:
    """Learn scales and bounds (PassionSR); prints what that brought and writes one file."""
    import torch

    from pipelines.passionsr.calibration.measure import table
    from pipelines.passionsr.calibration.run import Places, Request, calibrate
    from pipelines.passionsr.calibration.set import SetSettings

    torch.set_num_threads(threads)
    if fetch_photos:
        photos, held_out = _fetched(work / "photographs", photos, held_out)
    name = f"{system}-w{bits}a{bits}"
    out = out or work / f"{name}.safetensors"
    request = Request(
        system=system,
        bits=bits,
        mode=mode,
        components=components,
        pictures=SetSettings(images=images, side=side, degrading=degrading, seed=seed),
        epochs=epochs,
    )
    places = Places(
        photographs=_photographs(photos),
        held_out=() if held_out is None else _photographs(held_out),
        evaluation=tuple(evaluation or ()),
        work=work / name,
        out=out,
        resume=resume,
        allow_leaks=allow_leaks,
    )
    done = calibrate(request, places, _resolved(system, weights), _say)
    if done.signal:
        typer.echo("stopped; the same command continues there", err=True)
        raise typer.Exit(128 + done.signal)
    typer.echo(table(done.rows))
    typer.echo(out)


def _fetched(folder: Path, photos: Path | None, held_out: Path | None) -> tuple[Path, Path]:
    """Folders of the free photographs, where others were not given."""
    from pipelines.photographs import gather

    gather(folder, _say)
    return photos or folder / "train", held_out or folder / "val"


def _photographs(folder: Path | None) -> tuple[Path, ...]:
    from pipelines.passionsr.calibration.set import find_photographs, installed_photographs

    if folder is not None:
        return tuple(find_photographs(folder))
    _say("no --photos: those that come with scikit-image; more make better ranges")
    return tuple(installed_photographs())


def _resolved(system: System, name: str | None) -> WeightsSource:
    if system == "osediff":
        from pipelines.osediff.weight_sources import resolve_weights
    else:
        from pipelines.s3diff.weight_sources import resolve_weights
    return resolve_weights(name, "cpu")


def _say(line: str) -> None:
    typer.echo(line, err=True)


def main() -> None:
    """Run the command; bad input is one line and exit code 2."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        app()
    except (PipelineError, OSError) as error:
        typer.echo(f"passionsr: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
