"""The ladder command: what each option of a pipeline brings in time and costs in fidelity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srbench.cli.conduct import how_it_ended
from srbench.cli.measure import (
    Cases,
    Gpu,
    Inputs,
    Json,
    ListCommand,
    Out,
    Precision,
    Resume,
    Seed,
    Sets,
    Timeout,
    Weights,
    refuse_changes,
)

if TYPE_CHECKING:
    from srbench.config import Settings
    from srbench.errors import ExitCode
    from srbench.preparation import Preparation
    from srbench.records import Run

DEFAULT_PIPELINE = "s3diff-optimized"


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command(cls=ListCommand)(ladder)


def ladder(
    pipeline: Annotated[
        str | None,
        typer.Option(help=f"Name or module:attribute, with rungs [default: {DEFAULT_PIPELINE}]"),
    ] = None,
    rungs: Annotated[
        list[str] | None,
        typer.Option(
            help="Rungs to measure, each with all the options up to it; several by commas or "
            "spaces [default: all]"
        ),
    ] = None,
    baseline: Annotated[
        bool | None,
        typer.Option(
            "--baseline/--no-baseline",
            help="Measure s3diff-baseline, or the first of `pipelines` in srbench.toml, as the "
            "first arm [default: --baseline]",
        ),
    ] = None,
    gpu: Gpu = None,
    cases: Cases = None,
    weights: Weights = None,
    inputs: Inputs = None,
    precision: Precision = None,
    blocks: Annotated[
        int | None, typer.Option(help="Fresh workers of each arm [default: 3 on CUDA, 2 on CPU]")
    ] = None,
    pairs: Annotated[
        int | None,
        typer.Option(help="Timed images a case in a block [default: 3 on CUDA, 2 on CPU]"),
    ] = None,
    seed: Seed = None,
    sets: Sets = None,
    out: Out = None,
    resume: Resume = None,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Switch a pipeline's options on one after another: a waterfall of seconds and fidelity.

    A ladder is a run with an arm for each rung, fewer blocks and pairs by default, one worker
    after the other. Its forecast is printed first; --resume goes on with one broken off.
    """
    from srbench.config import load_settings

    fixed = {"gpu": gpu, "cases": cases, "precision": precision, "blocks": blocks}
    fixed |= {"pairs": pairs, "seed": seed, "options": sets}
    free = {"weights": weights, "inputs": inputs, "out": out, "timeout": timeout}
    if resume is not None:
        refuse_changes(fixed)
        given = None if baseline is None else "given"
        refuse_changes({"pipeline": pipeline, "rungs": rungs, "baseline": given})
        settings = load_settings(free)
        done, path = _go_on(resume, settings)
    else:
        settings = load_settings({**fixed, **free})
        done, path = _begin(settings, pipeline or DEFAULT_PIPELINE, rungs, baseline is not False)
    _finish(done, path, settings, as_json=as_json)


def _begin(
    settings: Settings, pipeline: str, rungs: list[str] | None, baseline: bool
) -> tuple[Run, Path]:
    from srbench.cli.conduct import measure, note
    from srbench.ladder.preparing import Ascent, prepare_ladder

    ascent = Ascent(pipeline=pipeline, rungs=_names(rungs), baseline=baseline)
    preparation = prepare_ladder(settings, ascent, note)
    note(_forecast(preparation, settings))
    return measure(preparation, settings.out)


def _names(texts: list[str] | None) -> tuple[str, ...] | None:
    if texts is None:
        return None
    return tuple(name for text in texts for part in text.split(",") if (name := part.strip()))


def _forecast(preparation: Preparation, settings: Settings) -> str:
    from srbench.ladder.preparing import expected

    plan = preparation.job.plan
    time = expected(preparation, settings.out)
    known = "unknown" if time.seconds is None else f"about {time.seconds / 60:.1f} minutes"
    return (
        f"{len(plan.arms)} arms x {len(plan.cases)} cases x {plan.blocks} blocks x {plan.pairs} "
        f"images; time: {known} ({time.source})"
    )


def _go_on(name: str, settings: Settings) -> tuple[Run, Path]:
    from srbench.cli.conduct import NEWEST, go_on, note, unfinished
    from srbench.errors import UsageError
    from srbench.ladder.preparing import PURPOSE
    from srbench.preparation import prepare_resume
    from srbench.store import list_runs

    if name == NEWEST and not list_runs(settings.out):
        raise UsageError(f"{settings.out}: no results in it; `srbench ladder` makes some")
    begun, path = unfinished(name, settings.out, PURPOSE)
    return go_on(path, begun, prepare_resume(begun.head, settings, note)), path


def _finish(done: Run, path: Path, settings: Settings, *, as_json: bool) -> None:
    """Print the ladder, write its report and leave with the run's exit code."""
    from srbench.preparation import report_folder
    from srbench.report import write_report
    from srbench.report.ladder import ladder_cases
    from srbench.report.ladder_text import ladder_text
    from srbench.report.model import build_model

    code, line = how_it_ended(done, path)
    page = write_report([done], report_folder(settings.out)) if done.finished_blocks else None
    if as_json:
        typer.echo(json.dumps(_document(done, path, page, code)))
    elif page is not None:
        typer.echo(ladder_text(ladder_cases(done), build_model(done).label))
        typer.echo(f"results: {path}")
        typer.echo(f"report: {page}")
    if line:
        typer.echo(f"srbench: {line}", err=True)
    raise typer.Exit(code)


def _document(done: Run, path: Path, page: Path | None, code: ExitCode) -> dict[str, object]:
    from srbench.report.ladder import ladder_json

    return {
        "run": done.head.run_id,
        "results": str(path),
        "report": None if page is None else str(page),
        "exit_code": int(code),
        "finished_blocks": sorted(done.finished_blocks),
        "head": done.head.to_json(),
        "cases": ladder_json(done),
    }
