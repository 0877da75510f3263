"""The small model, from photographs to weights: `python -m pipelines.srdiff.mini --out DIR`.

Both stages of `mini-x4` in less than half an hour of one processor core. An interrupted run goes on
where it stopped.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from pipelines.contract import PipelineError
from pipelines.photographs import HELD_OUT, TRAINING, gather
from pipelines.pictures import Note
from pipelines.srdiff.training.settings import PRESETS, Settings, Stage

CONFIG = "mini-x4"
FILE_NAME = "srdiff-mini-x4.safetensors"
_SAVE_EVERY = 250

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def make(out: Path, note: Note) -> Path | None:
    """Fetch the photographs, train both stages and write the averaged weights.

    Args:
        out: New folder, or one of an earlier call, which is continued.
        note: Told progress.

    Returns:
        The weights, in safetensors with the published names; None where the training was stopped.

    Raises:
        PipelineError: One line that names what is wrong.
    """
    from safetensors.torch import save_file

    from pipelines.srdiff.checkpoint import read_tensors

    gather(out / "photographs", note)
    begun_s = time.process_time()
    first = _stage(PRESETS[Stage.RRDB, CONFIG], out, None, note)
    files = first and _stage(PRESETS[Stage.DIFFUSION, CONFIG], out, first[0], note)
    if not files:
        return None
    note(f"{time.process_time() - begun_s:.0f} s of processor time in this call")
    path, temporary = out / FILE_NAME, out / f".{FILE_NAME}.part"
    save_file(read_tensors(files[-1]), temporary, {"photographs": _credits(TRAINING)})
    temporary.replace(path)
    return path


def _stage(settings: Settings, out: Path, rrdb: Path | None, note: Note) -> tuple[Path, ...]:
    from pipelines.srdiff.training.loop import Run, train
    from pipelines.srdiff.training.reporting import Watched

    run = Run(
        data=out / "photographs",
        out=out / settings.stage,
        rrdb=rrdb,
        resume=True,
        workers=0,
        save_every=_SAVE_EVERY,
        watched=Watched(log_every=50, validate_every=settings.steps),
    )
    return train(settings, run, note).files


def _credits(photographs: dict[str, tuple[str, ...]]) -> str:
    return "; ".join(f"{licence}: {', '.join(names)}" for licence, names in photographs.items())


@app.command()
def command(
    out: Annotated[Path, typer.Option(help="New folder, or one to continue.")],
) -> None:
    """Train the small model on free photographs, on a CPU in half an hour."""
    import torch

    torch.set_num_threads(1)  # the weights depend on how sums are divided among threads
    path = make(out, lambda line: typer.echo(line, err=True))
    if path is None:
        typer.echo("stopped; the same command continues", err=True)
        raise typer.Exit(1)
    typer.echo(f"{path}; held out: {_credits(HELD_OUT)}, in {out / 'photographs' / 'val'}")


def main() -> None:
    """Run the command; bad input is one line and exit code 2."""
    try:
        app()
    except (PipelineError, OSError) as error:
        typer.echo(f"mini: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()
