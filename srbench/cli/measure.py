"""Commands that measure, and those that tell what would be measured."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from srbench.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from srbench.cli.progress import Lines
    from srbench.config import Settings
    from srbench.records import Run

NEWEST = "newest"
_LISTS = ("--cases", "--pipelines")


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
    str | None, typer.Option(help="auto, cpu, or a profile: a10, l20, h100, h200 [default: auto]")
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
Out = Annotated[Path | None, typer.Option(help="Results folder [default: results]")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(cls=ListCommand)(run)


def run(
    gpu: Gpu = None,
    cases: Cases = None,
    pipelines: Pipelines = None,
    weights: Annotated[
        str | None, typer.Option(help="Folder, mini or synthetic [default: see `srbench doctor`]")
    ] = None,
    inputs: Annotated[Path | None, typer.Option(help="Folder of your own images.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="fp32 or fp16 [default: fp16 on CUDA, fp32 on CPU]")
    ] = None,
    blocks: Blocks = None,
    pairs: Pairs = None,
    seed: Seed = None,
    noise_seed: Annotated[
        int | None, typer.Option(help="Of the posterior noise [default: 0]")
    ] = None,
    sets: Sets = None,
    out: Out = None,
    resume: Annotated[
        str | None,
        typer.Option(
            metavar="[RUN]", help="Go on with an interrupted run, the newest if none is named."
        ),
    ] = None,
    timeout: Annotated[
        float | None, typer.Option(help="Seconds one image or step may take [default: 1800]")
    ] = None,
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
    }
    free = {"weights": weights, "inputs": inputs, "out": out, "timeout": timeout}
    if resume is not None:
        _refuse_changes(fixed)
    settings = load_settings({**fixed, **free})
    try:
        done, path = _begin(settings) if resume is None else _resume(resume, settings)
    except KeyboardInterrupt:
        typer.echo("srbench: interrupted; `srbench run --resume` goes on", err=True)
        raise typer.Exit(ExitCode.INTERRUPTED) from None
    _finish(done, path, settings, as_json=as_json)


def _refuse_changes(fixed: dict[str, Any]) -> None:
    for key, value in fixed.items():
        if value:
            option = "set" if key == "options" else key.replace("_", "-")
            raise UsageError(f"--{option}: cannot be changed with --resume; leave it out")


def _begin(settings: Settings) -> tuple[Run, Path]:
    from srbench.cli.progress import progress_on_stderr
    from srbench.preparation import prepare_run
    from srbench.running import begin

    preparation = prepare_run(settings)
    plan = preparation.job.plan
    cells = plan.blocks * len(plan.cases) * len(plan.arms)
    with progress_on_stderr(cells) as progress, _interruptible(progress) as stop:
        done = begin(preparation, settings.out, sys.argv[1:], progress, stop)
    return done, settings.out / done.head.profile / f"{done.head.run_id}.jsonl"


def _resume(name: str, settings: Settings) -> tuple[Run, Path]:
    from srbench.cli.progress import progress_on_stderr
    from srbench.preparation import prepare_resume
    from srbench.running import resume
    from srbench.store import find_run, newest_run, read_run

    path = newest_run(settings.out) if name == NEWEST else find_run(name, settings.out)
    begun = read_run(path)
    if begun.ended:
        raise UsageError(f"--resume: {begun.head.run_id} is finished; there is nothing to resume")
    preparation = prepare_resume(begun.head, settings)
    plan = preparation.job.plan
    cells = (plan.blocks - len(begun.finished_blocks)) * len(plan.cases) * len(plan.arms)
    with progress_on_stderr(cells) as progress, _interruptible(progress) as stop:
        done = resume(path, preparation, progress, stop)
    return done, path


@contextmanager
def _interruptible(progress: Lines) -> Iterator[Any]:
    """A question whether Ctrl-C was pressed; pressed a second time it interrupts at once."""
    pressed = False

    def first(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        progress.note("finishing the current block; Ctrl-C again stops at once")

    previous = signal.signal(signal.SIGINT, first)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, previous)


def _finish(done: Run, path: Path, settings: Settings, *, as_json: bool) -> None:
    from srbench.preparation import report_folder
    from srbench.report import write_report
    from srbench.report.tables import console_table
    from srbench.running import broken_results

    broken = broken_results(done)
    code, line = ExitCode.OK, ""
    if not done.ended:
        code = ExitCode.INTERRUPTED
        line = (
            f"interrupted after {len(done.finished_blocks)} of {done.head.blocks} blocks; "
            f"`srbench run --resume {done.head.run_id}` goes on"
        )
    elif broken:
        code = ExitCode.INFRASTRUCTURE
        more = f" and {len(broken) - 1} more" if len(broken) > 1 else ""
        line = f"no result for {broken[0]}{more}; the rest is stored in {path}"
    page = write_report([done], report_folder(settings.out)) if done.finished_blocks else None
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
