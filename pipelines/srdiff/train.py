"""Train SRDiff: `python -m pipelines.srdiff.train {rrdb,diffusion} --help`.

Stage 1 trains the encoder as a super-resolution network of its own, stage 2 the diffusion on the
frozen encoder. `accelerate launch -m pipelines.srdiff.train ...` uses several GPUs.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from pipelines.contract import PipelineError
from pipelines.srdiff.config import CONFIGS
from pipelines.srdiff.training.settings import (
    PRESETS,
    Decay,
    Init,
    Loss,
    Precision,
    Settings,
    Stage,
)

_MOST_WORKERS = 8

Data = Annotated[
    Path, typer.Option(help="What pipelines.srdiff.prepare wrote, DIV2K, or photographs.")
]
Out = Annotated[Path, typer.Option(help="New folder, or one to continue: states, logs, weights.")]
Encoder = Annotated[Path, typer.Option(help="rrdb.ckpt of stage 1, or a whole checkpoint.")]
Name = Annotated[str, typer.Option("--config", help=f"One of {', '.join(CONFIGS)}.")]
Steps = Annotated[int | None, typer.Option(help="Updates.")]
Batch = Annotated[int | None, typer.Option(help="Patches an update, over all processes and parts.")]
Patch = Annotated[int | None, typer.Option(help="Side of an HR patch.")]
Rate = Annotated[float | None, typer.Option("--lr", help="Learning rate of Adam.")]
Fall = Annotated[Decay | None, typer.Option("--decay", help="How the learning rate falls.")]
Halving = Annotated[int | None, typer.Option("--lr-halve-every", help="Updates, of --decay halve.")]
Warmup = Annotated[int | None, typer.Option(help="Updates in which the learning rate rises.")]
Clip = Annotated[float | None, typer.Option(help="Largest norm of the gradients; 0: any.")]
Ema = Annotated[float | None, typer.Option(help="Decay of averaged weights, as 0.999; 0: none.")]
Compute = Annotated[Precision | None, typer.Option("--precision", help="Of the networks.")]
Accumulate = Annotated[int | None, typer.Option(help="Parts that an update is computed in.")]
Augment = Annotated[bool | None, typer.Option(help="Flips and transposes.")]
Divisor = Annotated[
    int | None, typer.Option(help="Of the upsampled LR: 256 as published, or the honest 255.")
]
Seed = Annotated[int | None, typer.Option(help="Of weights, patches, timesteps and noise.")]
Resume = Annotated[bool, typer.Option(help="Continue what is in --out.")]
Workers = Annotated[
    int | None, typer.Option(min=0, help="Processes that prepare patches; by the device.")
]
SaveEvery = Annotated[int, typer.Option(min=1, help="Updates from state to state.")]
LogEvery = Annotated[int, typer.Option(min=1, help="Updates from line to line.")]
ValidateEvery = Annotated[int, typer.Option(min=0, help="Updates; 0: never.")]
SampleEvery = Annotated[
    int, typer.Option(min=0, help="Updates from grid to grid of pictures; 0: never.")
]
Samples = Annotated[int, typer.Option(min=1, help="Validation pictures in a grid.")]

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    no_args_is_help=True,
    help="Train SRDiff in two stages. What is not given comes from --config.",
)


@app.command("rrdb")
def rrdb_command(
    data: Data,
    out: Out,
    config: Name = "df2k-x4",
    steps: Steps = None,
    batch: Batch = None,
    patch: Patch = None,
    lr: Rate = None,
    decay: Fall = None,
    lr_halve_every: Halving = None,
    warmup: Warmup = None,
    clip: Clip = None,
    ema: Ema = None,
    precision: Compute = None,
    accumulate: Accumulate = None,
    init: Annotated[
        Init | None, typer.Option(help="First weights; nearest starts as an upsampling.")
    ] = None,
    augment: Augment = None,
    seed: Seed = None,
    resume: Resume = True,
    workers: Workers = None,
    save_every: SaveEvery = 1_000,
    log_every: LogEvery = 100,
    validate_every: ValidateEvery = 4_000,
    sample_every: SampleEvery = 4_000,
    samples: Samples = 4,
) -> None:
    """Stage 1: the encoder, by the L1 distance of its picture; writes OUT/rrdb.ckpt."""
    _go(Stage.RRDB, locals())


@app.command("diffusion")
def diffusion_command(
    data: Data,
    rrdb: Encoder,
    out: Out,
    config: Name = "df2k-x4",
    steps: Steps = None,
    batch: Batch = None,
    patch: Patch = None,
    lr: Rate = None,
    decay: Fall = None,
    lr_halve_every: Halving = None,
    warmup: Warmup = None,
    clip: Clip = None,
    ema: Ema = None,
    precision: Compute = None,
    accumulate: Accumulate = None,
    loss: Annotated[Loss | None, typer.Option(help="Of the noise.")] = None,
    consistency: Annotated[
        float | None, typer.Option(help="Weight of the distance of the noises on the LR grid.")
    ] = None,
    train_rrdb: Annotated[
        bool | None, typer.Option(help="Train the encoder too, with the L1 of its picture added.")
    ] = None,
    augment: Augment = None,
    divisor: Divisor = None,
    seed: Seed = None,
    resume: Resume = True,
    workers: Workers = None,
    save_every: SaveEvery = 1_000,
    log_every: LogEvery = 100,
    validate_every: ValidateEvery = 4_000,
    sample_every: SampleEvery = 4_000,
    samples: Samples = 4,
) -> None:
    """Stage 2: the diffusion, on the encoder of stage 1; writes OUT/model.ckpt."""
    _go(Stage.DIFFUSION, locals())


def settings_of(stage: Stage, config: str, chosen: dict[str, Any]) -> Settings:
    """A preset with what was chosen instead; None is not chosen.

    Raises:
        PipelineError: No such preset, or a value that cannot be.
    """
    preset = PRESETS.get((stage, config))
    if preset is None:
        raise PipelineError(f"--config {config}: expected one of {', '.join(CONFIGS)}")
    return replace(preset, **{name: v for name, v in chosen.items() if v is not None})


def _go(stage: Stage, options: dict[str, Any]) -> None:
    chosen = {k: v for k, v in options.items() if k in Settings.__dataclass_fields__}
    settings = settings_of(stage, chosen.pop("config"), chosen)
    from pipelines.srdiff.training.loop import Run, train
    from pipelines.srdiff.training.reporting import Watched

    outcome = train(
        settings,
        Run(
            data=options["data"],
            out=options["out"],
            rrdb=options.get("rrdb"),
            resume=options["resume"],
            workers=_default_workers() if options["workers"] is None else options["workers"],
            save_every=options["save_every"],
            watched=Watched(**{k: options[k] for k in Watched.__dataclass_fields__}),
        ),
        note=lambda line: typer.echo(line, err=True),
    )
    if outcome.signal:
        typer.echo(f"stopped after step {outcome.step}; the same command continues there", err=True)
        raise typer.Exit(128 + outcome.signal)
    for file in outcome.files:
        typer.echo(file)


def _default_workers() -> int:
    """Patches are prepared beside a GPU, but would only take a CPU from the training."""
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
