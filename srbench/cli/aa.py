"""The A/A command: the same pipeline in both arms, to learn what the machine does by itself."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srbench.cli.conduct import how_it_ended
from srbench.cli.executor import Address, Executor, go_on_on_ray, on_ray
from srbench.cli.finishing import Concluded, leave, leave_all
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
    begun_brief,
    refuse_changes,
)
from srbench.commands import is_command
from srbench.errors import ExitCode, InfrastructureError, UsageError

if TYPE_CHECKING:
    from srbench.brief import Brief
    from srbench.config import Settings
    from srbench.executors.leader import Led
    from srbench.executors.messages import Prepare
    from srbench.plan import Plan
    from srbench.profiles import Profile
    from srbench.records import Run

PURPOSE = "aa"
LEAST_BLOCKS = 6
"""The gate's first look: what it needs to decide anything, an A/A run should have shown."""


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command(cls=ListCommand)(aa)


def aa(
    pipeline: Annotated[
        str, typer.Option(help="Name, module:attribute, NAME@REVISION or cmd:COMMAND.")
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
    executor: Executor = None,
    address: Address = None,
    timeout: Timeout = None,
    as_json: Json = False,
) -> None:
    """Measure a pipeline against itself: false alarms, noise, and the smallest effect to be seen.

    Exit 0 when every simultaneous interval covers 1.0, 1 when one does not: then this machine
    favours an arm and no verdict of it can be trusted.
    """
    from srbench.cli.conduct import go_on, measure, note, unfinished
    from srbench.config import load_settings
    from srbench.preparation import measured_device, prepare
    from srbench.resuming import prepare_resume

    if "=" in pipeline and not is_command(pipeline):
        raise UsageError(f"--pipeline {pipeline}: takes no label, its arms are called A and B")
    fixed = {"gpu": gpu, "cases": cases, "precision": precision, "blocks": blocks}
    fixed |= {"pairs": pairs, "seed": seed, "options": sets}
    free = {"weights": weights, "inputs": inputs, "out": out, "timeout": timeout}
    free |= {"executor": executor, "address": address}
    if resume is not None:
        refuse_changes(fixed)
        settings = load_settings(free)
        if on_ray(settings, address):
            led = go_on_on_ray(resume, settings, PURPOSE, begun_brief(settings))
            leave_all(led, settings, _conclude, as_json=as_json)
        begun, path = unfinished(resume, settings.out, PURPOSE)
        done = go_on(path, begun, prepare_resume(begun.head, settings, note))
    else:
        arms = (f"A={pipeline}", f"B={pipeline}")
        settings = replace(load_settings({**fixed, **free}), pipelines=arms)
        if on_ray(settings, address):
            leave_all(_begin_on_ray(settings), settings, _conclude, as_json=as_json)
        profile, _ = measured_device(settings.gpu)
        done, path = measure(prepare(_brief(settings, profile), note), settings.out)
    leave(_conclude(done, path, settings), as_json=as_json)


def _brief(settings: Settings, profile: Profile) -> Brief:
    from srbench.preparation import brief_run

    brief = brief_run(settings, profile, purpose=PURPOSE)
    if settings.blocks is not None:
        return brief
    least = replace(brief.plan, blocks=max(brief.plan.blocks, LEAST_BLOCKS))
    return replace(brief, plan=least)


def _begin_on_ray(settings: Settings) -> list[Led]:
    from srbench.cli.executor import measure_on_ray, shipped
    from srbench.preparation import prepare
    from srbench.profiles import load_profile

    def plan(name: str) -> tuple[Profile, Plan, Prepare]:
        brief = _brief(shipped(settings), load_profile(name))
        return brief.profile, brief.plan, partial(prepare, brief)

    return measure_on_ray(settings, settings.gpu, plan)


def _conclude(done: Run, path: Path, settings: Settings) -> Concluded:
    """What the machine does by itself, where the run came to its end."""
    code, line = how_it_ended(done, path)
    if code is not ExitCode.OK:
        document = {"run": done.head.run_id, "results": str(path), "exit_code": int(code)}
        return Concluded(code, line, document)
    return _analysed(done, path, settings)


def _analysed(done: Run, path: Path, settings: Settings) -> Concluded:
    """Analyse, write the noise file and the page."""
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
    text = "\n".join([aa_table(result), *(f"{name}: {file}" for name, file in files.items())])
    return Concluded(result.exit_code, result.line(), {**result.to_json(), **files}, text)
