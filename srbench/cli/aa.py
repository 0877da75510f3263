"""The A/A command: the same pipeline in both arms, to learn what the machine does by itself."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srbench.cli.conduct import how_it_ended
from srbench.cli.measure import (
    Blocks,
    Cases,
    Gpu,
    Inputs,
    Json,
    ListCommand,
    Out,
    Pairs,
    Precision,
    Resume,
    Seed,
    Sets,
    Timeout,
    Weights,
    refuse_changes,
)
from srbench.errors import ExitCode, InfrastructureError, UsageError

if TYPE_CHECKING:
    from srbench.config import Settings
    from srbench.records import Run

LEAST_BLOCKS = 6
"""The gate's first look: what it needs to decide anything, an A/A run should have shown."""


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command(cls=ListCommand)(aa)


def aa(
    pipeline: Annotated[
        str, typer.Option(help="Name, module:attribute or NAME@REVISION.")
    ] = "s3diff-optimized",
    gpu: Gpu = None,
    cases: Cases = None,
    weights: Weights = None,
    inputs: Inputs = None,
    precision: Precision = None,
    blocks: Blocks = None,
    pairs: Pairs = None,
    seed: Seed = None,
    sets: Sets = None,
    out: Out = None,
    resume: Resume = None,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Measure a pipeline against itself: false alarms, noise, and the smallest effect to be seen.

    Exit 0 when every simultaneous interval covers 1.0, 1 when one does not: then this machine
    favours an arm and no verdict of it can be trusted.
    """
    from srbench.cli.conduct import go_on, measure, note, unfinished
    from srbench.config import load_settings
    from srbench.preparation import prepare_resume, prepare_run

    if "=" in pipeline:
        raise UsageError(f"--pipeline {pipeline}: takes no label, its arms are called A and B")
    fixed = {"gpu": gpu, "cases": cases, "precision": precision, "blocks": blocks}
    fixed |= {"pairs": pairs, "seed": seed, "options": sets}
    free = {"weights": weights, "inputs": inputs, "out": out, "timeout": timeout}
    if resume is not None:
        refuse_changes(fixed)
        settings = load_settings(free)
        begun, path = unfinished(resume, settings.out, "aa")
        done = go_on(path, begun, prepare_resume(begun.head, settings, note))
    else:
        settings = load_settings({**fixed, **free})
        arms = (f"A={pipeline}", f"B={pipeline}")
        settings = replace(settings, pipelines=arms)
        preparation = prepare_run(settings, note, purpose="aa")
        if settings.blocks is None:
            job = preparation.job
            least = replace(job.plan, blocks=max(job.plan.blocks, LEAST_BLOCKS))
            preparation = replace(preparation, job=replace(job, plan=least))
        done, path = measure(preparation, settings.out)
    code, line = how_it_ended(done, path)
    if code is ExitCode.OK:
        code, line = _conclude(done, path, settings, as_json=as_json)
    if line:
        note(f"srbench: {line}")
    raise typer.Exit(code)


def _conclude(done: Run, path: Path, settings: Settings, *, as_json: bool) -> tuple[ExitCode, str]:
    """Analyse, write the noise file and the page, print; returns how the command ends."""
    from srbench.aa import aa_markdown, aa_table, analyse, noise_file
    from srbench.durable import replace_file
    from srbench.noise import write_noise
    from srbench.preparation import report_folder

    result = analyse(done)
    files = {"results": str(path)}
    if any(row.sd is not None for row in result.rows):
        files["noise"] = str(write_noise(settings.out, noise_file(done, result)))
    page = report_folder(settings.out) / f"aa_{done.head.profile}.md"
    try:
        replace_file(page, aa_markdown(result))
    except OSError as error:
        raise InfrastructureError(f"{page}: cannot be written ({error.strerror})") from error
    files["report"] = str(page)
    if as_json:
        typer.echo(json.dumps({**result.to_json(), **files}))
    else:
        typer.echo(aa_table(result))
        for name, file in files.items():
            typer.echo(f"{name}: {file}")
    return result.exit_code, result.line()
