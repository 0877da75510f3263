"""The command that holds counted work against what a card can do: roofline."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srbench.cli.conduct import note
from srbench.cli.measure import Cases, Gpu, Json, ListCommand, Pipelines, Sets, Timeout
from srbench.errors import UsageError

if TYPE_CHECKING:
    from srbench.roofline.model import Roofline


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command(cls=ListCommand)(roofline)


def roofline(
    gpu: Gpu = None,
    cases: Cases = None,
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
    from srbench.roofline.assemble import assemble, find_ceilings, find_question, find_target
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
    target = find_target(settings, stored)
    question = find_question(settings, stored)
    ceilings = find_ceilings(target, settings, note, measure=measure)
    found = assemble(question, target, ceilings, settings, note)
    write_limits(settings.out, found)
    _show(found, ceilings_path(settings.out, target.profile.name), out, as_json=as_json)


def _show(found: Roofline, ceilings_file: Path, out: Path, *, as_json: bool) -> None:
    """Write the page and its figure, then print the table or the document."""
    from srbench.report.figures import save
    from srbench.roofline.assemble import card_limits
    from srbench.roofline.figure import roofline_figure
    from srbench.roofline.limits import DATASHEET
    from srbench.roofline.text import console_text, markdown_text

    own = any(each.source == DATASHEET for each in found.limits)
    cards = {} if own else card_limits(found.precision)
    page = out / f"{found.profile.name}_roofline.md"
    picture = page.with_suffix(".svg")
    try:
        out.mkdir(parents=True, exist_ok=True)
        figure = roofline_figure(found, cards)
        if figure is not None:
            save(figure, picture)
        name = None if figure is None else picture.name
        page.write_text(markdown_text(found, cards, ceilings_file, name), encoding="utf-8")
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
    cards = card_limits(found.precision)
    return {
        "profile": found.profile.name,
        "precision": found.precision,
        "run": found.run_id,
        "limits": {each.source: asdict(each) for each in found.limits},
        "ceilings": ceilings,
        "cases": [
            {"case": case, "pipelines": {arm: each.to_json(cards) for arm, each in arms.items()}}
            for case, arms in found.cases.items()
        ],
    }
