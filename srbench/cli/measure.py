"""Commands that measure, and those that tell what would be measured."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from srbench.cli.conduct import NEWEST
from srbench.cli.looks import Against, PolicyFile, UntilDecided, looking_by_gate, planned_looks
from srbench.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from srbench.config import Settings
    from srbench.records import Run

META = "meta"
_LISTS = ("--cases", "--pipelines", "--rungs")


def expand_arguments(arguments: list[str]) -> list[str]:
    """Give `--resume` its default value, and `--cases A B` and `--pipelines A B` their lists."""
    expanded: list[str] = []
    list_option = ""
    for position, argument in enumerate(arguments):
        follower = arguments[position + 1] if position + 1 < len(arguments) else "-"
        if argument == "--resume" and follower.startswith("-"):
            expanded.append(f"--resume={NEWEST}")
        elif argument.startswith("-"):
            expanded.append(argument)
        elif list_option and expanded[-1] != list_option:
            expanded += [list_option, argument]
        else:
            expanded.append(argument)
        if argument.startswith("-"):
            list_option = argument if argument in _LISTS else ""
    return expanded


class ListCommand(TyperCommand):
    """A command without positional arguments, whose list options take several words."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Expand, then parse as usual."""
        return super().parse_args(ctx, expand_arguments(args))


Gpu = Annotated[
    str | None,
    typer.Option(
        help="auto, cpu, a profile (a10, l20, h100, h200), or meta to count the work only "
        "[default: auto]"
    ),
]
Cases = Annotated[
    list[str] | None,
    typer.Option(
        help="documented, smoke, or WIDTHxHEIGHTxSCALE; several by commas or spaces "
        "[default: documented on CUDA, smoke on CPU]"
    ),
]
Pipelines = Annotated[
    list[str] | None,
    typer.Option(
        help="Names or module:attribute, the baseline first "
        "[default: s3diff-baseline,s3diff-optimized]"
    ),
]
Weights = Annotated[
    str | None, typer.Option(help="Path, mini or synthetic [default: see `srbench doctor`]")
]
Inputs = Annotated[Path | None, typer.Option(help="Folder of your own images.")]
Precision = Annotated[
    str | None, typer.Option(help="fp32 or fp16 [default: fp16 on CUDA, fp32 on CPU]")
]
Blocks = Annotated[
    int | None, typer.Option(help="Fresh worker pairs [default: 10 on CUDA, 3 on CPU]")
]
Pairs = Annotated[
    int | None, typer.Option(help="Timed pairs per case in a block [default: 5 on CUDA, 2 on CPU]")
]
Seed = Annotated[int | None, typer.Option(help="Of the order of measurement [default: 0]")]
Sets = Annotated[
    list[str] | None,
    typer.Option("--set", help="key=value for all arms, PIPELINE.key=value for one; repeatable"),
]
Resume = Annotated[
    str | None,
    typer.Option(
        metavar="[RUN]", help="Go on with an interrupted run, the newest if none is named."
    ),
]
Timeout = Annotated[
    float | None, typer.Option(help="Seconds one image or step may take [default: 1800]")
]
Out = Annotated[Path | None, typer.Option(help="Results folder [default: results]")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(cls=ListCommand)(run)


def run(
    gpu: Gpu = None,
    cases: Cases = None,
    pipelines: Pipelines = None,
    weights: Weights = None,
    inputs: Inputs = None,
    precision: Precision = None,
    blocks: Blocks = None,
    pairs: Pairs = None,
    seed: Seed = None,
    noise_seed: Annotated[
        int | None, typer.Option(help="Of the posterior noise [default: 0]")
    ] = None,
    sets: Sets = None,
    out: Out = None,
    resume: Resume = None,
    until_decided: UntilDecided = False,
    against: Against = None,
    policy: PolicyFile = None,
    pairing: Annotated[
        str | None,
        typer.Option(
            help="interleaved, or block: one arm after the other "
            "[default: interleaved where both fit on the device]"
        ),
    ] = None,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Measure pipelines against each other, print the table and write the report."""
    from srbench.config import load_settings

    fixed = {
        "gpu": gpu,
        "cases": cases,
        "pipelines": pipelines,
        "precision": precision,
        "blocks": blocks,
        "pairs": pairs,
        "seed": seed,
        "noise_seed": noise_seed,
        "options": sets,
        "pairing": pairing,
    }
    free = {"weights": weights, "inputs": inputs, "out": out, "timeout": timeout}
    if resume is not None:
        refuse_changes({**fixed, "until_decided": until_decided, "against": against})
    settings = load_settings({**fixed, **free})
    if settings.gpu == META and resume is None:
        apart = ("gpu", "cases", "pipelines", "options")
        measuring = {key: value for key, value in fixed.items() if key not in apart}
        asked = {"until_decided": until_decided, "against": against, "policy": policy}
        refuse({**measuring, **asked}, "nothing is measured with --gpu meta; leave it out")
        _count(settings, as_json=as_json)
        return
    if resume is not None:
        done, path = _go_on(resume, settings, policy)
    else:
        looks = planned_looks(settings.blocks, against, policy, until_decided=until_decided)
        done, path = _begin(settings, looks, against, policy)
    finish(done, path, settings, as_json=as_json)


def refuse_changes(fixed: dict[str, Any]) -> None:
    """Raise UsageError for an option that a run was begun with and --resume may not change."""
    refuse(fixed, "cannot be changed with --resume; leave it out")


def refuse(options: dict[str, Any], why: str) -> None:
    """Raise UsageError for the first of these options that was given."""
    for key, value in options.items():
        if value is not None and value is not False:
            option = "set" if key == "options" else key.replace("_", "-")
            raise UsageError(f"--{option}: {why}")


def _begin(
    settings: Settings, looks: list[int], against: str | None, policy: Path | None
) -> tuple[Run, Path]:
    from srbench.cli.conduct import measure, note
    from srbench.preparation import prepare_run

    preparation = prepare_run(settings, note, looks=looks, against=against)
    profile = preparation.profile.name
    looking = looking_by_gate(looks, against, policy, settings.out, profile)
    return measure(preparation, settings.out, looking)


def _go_on(name: str, settings: Settings, policy: Path | None) -> tuple[Run, Path]:
    from srbench.cli.conduct import go_on, note, unfinished
    from srbench.preparation import prepare_resume

    begun, path = unfinished(name, settings.out, "run")
    head = begun.head
    looking = looking_by_gate(head.looks, head.against, policy, settings.out, head.profile)
    return go_on(path, begun, prepare_resume(head, settings, note), looking), path


def _count(settings: Settings, *, as_json: bool) -> None:
    from srbench.counting import begin_counting
    from srbench.report.counters import counter_table

    run, path = begin_counting(settings, sys.argv[1:])
    if as_json:
        cells = [cell.to_json() for cell in run.cells]
        document = {"run": run.head.run_id, "results": str(path), "head": run.head.to_json()}
        typer.echo(json.dumps({**document, "cells": cells}))
    else:
        typer.echo(counter_table(run))
        typer.echo(f"results: {path}")


def finish(done: Run, path: Path, settings: Settings, *, as_json: bool) -> None:
    """Print a measured run, write its report and leave with its exit code."""
    from srbench.cli.conduct import how_it_ended, note
    from srbench.preparation import report_folder
    from srbench.report import write_report
    from srbench.report.history import stored_runs
    from srbench.report.tables import console_table

    code, line = how_it_ended(done, path)
    page = None
    if done.finished_blocks:
        past = stored_runs(settings.out, done, note)
        page = write_report(
            [done], report_folder(settings.out), history_of=past, results=settings.out
        )
    if as_json:
        typer.echo(json.dumps(_document(done, path, page, code)))
    elif page is not None:
        typer.echo(console_table(done))
        typer.echo(f"results: {path}")
        typer.echo(f"report: {page}")
    if line:
        typer.echo(f"srbench: {line}", err=True)
    raise typer.Exit(code)


def _document(done: Run, path: Path, page: Path | None, code: ExitCode) -> dict[str, Any]:
    """A run as one JSON object: its head and what the report derives from it, without pictures."""
    from srbench.report.model import build_model

    comparisons = [asdict(comparison) for comparison in build_model(done).comparisons]
    for comparison in comparisons:
        for row in comparison["rows"]:
            if row["fidelity"]:
                row["fidelity"].pop("crops")
    return {
        "run": done.head.run_id,
        "results": str(path),
        "report": None if page is None else str(page),
        "exit_code": int(code),
        "finished_blocks": sorted(done.finished_blocks),
        "head": done.head.to_json(),
        "comparisons": comparisons,
    }
