"""The ladder command: what each option of a pipeline brings in time and costs in fidelity."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srbench.cli.conduct import how_it_ended
from srbench.cli.executor import Address, Executor, go_on_on_ray, on_ray
from srbench.cli.finishing import Concluded, leave, leave_all
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
    begun_brief,
    refuse_changes,
)

if TYPE_CHECKING:
    from srbench.brief import Brief
    from srbench.config import Settings
    from srbench.errors import ExitCode
    from srbench.executors.leader import Led
    from srbench.executors.messages import Prepare
    from srbench.ladder.preparing import Ascent
    from srbench.plan import Plan
    from srbench.profiles import Profile
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
    executor: Executor = None,
    address: Address = None,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Switch a pipeline's options on one after another: a waterfall of seconds and fidelity.

    A ladder is a run with an arm for each rung, fewer blocks and pairs by default, one worker
    after the other. Its forecast is printed first; --resume goes on with one broken off.
    """
    from srbench.config import load_settings
    from srbench.ladder.preparing import PURPOSE, Ascent

    fixed = {"gpu": gpu, "cases": cases, "precision": precision, "blocks": blocks}
    fixed |= {"pairs": pairs, "seed": seed, "options": sets}
    free = {"weights": weights, "inputs": inputs, "out": out, "timeout": timeout}
    free |= {"executor": executor, "address": address}
    if resume is not None:
        refuse_changes(fixed)
        given = None if baseline is None else "given"
        refuse_changes({"pipeline": pipeline, "rungs": rungs, "baseline": given})
        settings = load_settings(free)
        if on_ray(settings, address):
            led = go_on_on_ray(resume, settings, PURPOSE, begun_brief(settings))
            leave_all(led, settings, _conclude, as_json=as_json)
        done, path = _go_on(resume, settings)
    else:
        settings = load_settings({**fixed, **free})
        ascent = Ascent(
            pipeline=pipeline or DEFAULT_PIPELINE,
            rungs=_names(rungs),
            baseline=baseline is not False,
        )
        if on_ray(settings, address):
            leave_all(_begin_on_ray(settings, ascent), settings, _conclude, as_json=as_json)
        done, path = _begin(settings, ascent)
    leave(_conclude(done, path, settings), as_json=as_json)


def _begin(settings: Settings, ascent: Ascent) -> tuple[Run, Path]:
    from srbench.cli.conduct import measure, note
    from srbench.ladder.preparing import brief_ladder
    from srbench.preparation import measured_device, prepare

    profile, _ = measured_device(settings.gpu)
    brief = brief_ladder(settings, ascent, profile)
    preparation = prepare(brief, note)
    note(_forecast(brief, settings))
    return measure(preparation, settings.out)


def _begin_on_ray(settings: Settings, ascent: Ascent) -> list[Led]:
    from srbench.cli.conduct import note
    from srbench.cli.executor import measure_on_ray, shipped
    from srbench.ladder.preparing import brief_ladder
    from srbench.preparation import prepare
    from srbench.profiles import load_profile

    def plan(name: str) -> tuple[Profile, Plan, Prepare]:
        brief = brief_ladder(shipped(settings), ascent, load_profile(name))
        note(f"{name}: {_forecast(brief, settings)}")
        return brief.profile, brief.plan, partial(prepare, brief)

    return measure_on_ray(settings, settings.gpu, plan)


def _names(texts: list[str] | None) -> tuple[str, ...] | None:
    if texts is None:
        return None
    return tuple(name for text in texts for part in text.split(",") if (name := part.strip()))


def _forecast(brief: Brief, settings: Settings) -> str:
    from srbench.ladder.preparing import expected

    plan = brief.plan
    time = expected(brief, settings.out)
    known = "unknown" if time.seconds is None else f"about {time.seconds / 60:.1f} minutes"
    return (
        f"{len(plan.arms)} arms x {len(plan.cases)} cases x {plan.blocks} blocks x {plan.pairs} "
        f"images; time: {known} ({time.source})"
    )


def _go_on(name: str, settings: Settings) -> tuple[Run, Path]:
    from srbench.cli.conduct import NEWEST, go_on, note, unfinished
    from srbench.errors import UsageError
    from srbench.ladder.preparing import PURPOSE
    from srbench.resuming import prepare_resume
    from srbench.store import list_runs

    if name == NEWEST and not list_runs(settings.out):
        raise UsageError(f"{settings.out}: no results in it; `srbench ladder` makes some")
    begun, path = unfinished(name, settings.out, PURPOSE)
    return go_on(path, begun, prepare_resume(begun.head, settings, note)), path


def _conclude(done: Run, path: Path, settings: Settings) -> Concluded:
    """The ladder of a run and its page, which is written."""
    from srbench.preparation import report_folder
    from srbench.report import write_report
    from srbench.report.ladder import ladder_cases
    from srbench.report.ladder_text import ladder_text
    from srbench.report.model import build_model

    code, line = how_it_ended(done, path)
    page, text = None, ""
    if done.finished_blocks:
        page = write_report([done], report_folder(settings.out))
        ladder = ladder_text(ladder_cases(done), build_model(done).label)
        text = f"{ladder}\nresults: {path}\nreport: {page}"
    return Concluded(code, line, _document(done, path, page, code), text)


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
