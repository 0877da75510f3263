"""The command that holds counted work against what a card can do: roofline."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srbench.cli.conduct import note
from srbench.cli.measure import Gpu, Json, ListCommand, Pipelines, Sets, Timeout
from srbench.errors import UsageError

if TYPE_CHECKING:
    from srbench.roofline.model import Roofline


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command(cls=ListCommand)(roofline)


def roofline(
    gpu: Gpu = None,
    cases: Annotated[
        list[str] | None,
        typer.Option(
            help="documented, smoke, or WIDTHxHEIGHTxSCALE; several by commas or spaces "
            "[default: the run's, else documented]"
        ),
    ] = None,
    pipelines: Pipelines = None,
    precision: Annotated[
        str | None,
        typer.Option(help="fp32 or fp16, of the bytes [default: the run's, else fp16; cpu fp32]"),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(
            help="Results file or run id whose times, options, cases and arms are taken "
            "[default: the newest of the profile that fits]"
        ),
    ] = None,
    sets: Sets = None,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure",
            help="Measure the ceilings of this machine anew [default: on a card without stored "
            "ones, or with --gpu cpu]",
        ),
    ] = False,
    results: Annotated[Path | None, typer.Option(help="Results folder [default: results]")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the page and the figure.")] = Path("reports"),
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Show work, limits, ceilings and what share of them is reached, by stage and case."""
    from srbench.config import load_settings
    from srbench.roofline.achieved import timed_runs
    from srbench.roofline.assemble import (
        assemble,
        find_ceilings,
        find_profile,
        find_question,
        find_target,
        newest_answer,
    )
    from srbench.roofline.ceilings import ceilings_path
    from srbench.roofline.stored import write_limits
    from srbench.store import find_run, read_run

    stored = None
    settings = load_settings(
        {
            "gpu": gpu,
            "cases": cases,
            "pipelines": pipelines,
            "precision": precision,
            "options": sets,
            "out": results,
            "timeout": timeout,
        }
    )
    if run is not None:
        if sets:
            raise UsageError("--set: the options are those of --run; leave one of the two out")
        stored = read_run(find_run(run, settings.out))
        if pipelines is None:
            settings = replace(settings, pipelines=tuple(stored.head.pipelines))
    profile = find_profile(settings, stored)
    runs = timed_runs(settings.out, profile.name, note) if stored is None else []
    stored = stored or newest_answer(runs, settings)
    target = find_target(profile, settings, stored, runs)
    question = find_question(settings, stored, runs)
    ceilings = find_ceilings(target, settings, note, measure=measure)
    found = assemble(question, target, ceilings, settings, note)
    write_limits(settings.out, found)
    _show(found, ceilings_path(settings.out, target.profile.name), out, as_json=as_json)


def _show(found: Roofline, ceilings_file: Path, out: Path, *, as_json: bool) -> None:
    """Write the page and its figure, then print the table or the document."""
    from srbench.report.figures import save
    from srbench.roofline.assemble import card_limits
    from srbench.roofline.figure import roofline_figure
    from srbench.roofline.text import console_text, markdown_text

    bare = found.profile.device == "cpu" and not found.limits and found.run_id is None
    cards = card_limits() if bare else {}
    name = f"{found.profile.name}_roofline"
    page = out / (f"{name}.md" if found.run_id is None else f"{name}_{found.run_id}.md")
    picture = page.with_suffix(".svg")
    try:
        out.mkdir(parents=True, exist_ok=True)
        figure = roofline_figure(found)
        if figure is not None:
            save(figure, picture)
        drawn = None if figure is None else picture.name
        page.write_text(markdown_text(found, cards, ceilings_file, drawn), encoding="utf-8")
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror}") from error
    if as_json:
        typer.echo(json.dumps({**_document(found), "page": str(page)}))
    else:
        typer.echo(console_text(found, cards, ceilings_file))
        typer.echo(f"page: {page}")


def _document(found: Roofline) -> dict[str, Any]:
    from srbench.roofline.assemble import card_limits

    ceilings = None if found.ceilings is None else asdict(found.ceilings)
    cards = card_limits()
    return {
        "profile": found.profile.name,
        "precision": found.precision,
        "run": found.run_id,
        "synthetic_weights": found.synthetic,
        "limits": {each.source: asdict(each) for each in found.limits},
        "ceilings": ceilings,
        "cases": [
            {"case": case, "pipelines": {arm: each.to_json(cards) for arm, each in arms.items()}}
            for case, arms in found.cases.items()
        ],
    }
