"""Commands that measure, and those that tell what would be measured."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from srbench.cli.conduct import NEWEST
from srbench.cli.executor import Address, Executor, on_ray
from srbench.cli.finishing import conclude_run, leave, leave_all
from srbench.cli.looks import Against, PolicyFile, UntilDecided, looking_by_gate, planned_looks
from srbench.errors import UsageError

if TYPE_CHECKING:
    from srbench.config import Settings
    from srbench.executors.leader import Led
    from srbench.executors.messages import Prepare
    from srbench.plan import Plan
    from srbench.profiles import Profile
    from srbench.records import Run, RunRecord
    from srbench.running import Looking

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
        help="auto, cpu, a profile (a10, l20, h100, h200), several with --executor ray, or meta "
        "to count the work only [default: auto]"
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
        help="Names, module:attribute or [LABEL=]cmd:COMMAND, the baseline first "
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
    executor: Executor = None,
    address: Address = None,
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
    free |= {"executor": executor, "address": address}
    if resume is not None:
        refuse_changes({**fixed, "until_decided": until_decided, "against": against})
    settings = load_settings({**fixed, **free})
    if settings.gpu == META and resume is None:
        apart = ("gpu", "cases", "pipelines", "options")
        measuring = {key: value for key, value in fixed.items() if key not in apart}
        asked = {"until_decided": until_decided, "against": against, "policy": policy}
        there = {"executor": executor, "address": address}
        refuse({**measuring, **asked, **there}, "nothing is measured with --gpu meta; leave it out")
        _count(settings, as_json=as_json)
        return
    remote = on_ray(settings, address)
    if resume is not None:
        if remote:
            _leave(_go_on_on_ray(resume, settings, policy), settings, as_json=as_json)
        done, path = _go_on(resume, settings, policy)
    else:
        looks = planned_looks(settings.blocks, against, policy, until_decided=until_decided)
        if remote:
            _leave(_begin_on_ray(settings, looks, against, policy), settings, as_json=as_json)
        done, path = _begin(settings, looks, against, policy)
    leave(conclude_run(done, path, settings), as_json=as_json)


def _leave(led: list[Led], settings: Settings, *, as_json: bool) -> NoReturn:
    leave_all(led, settings, conclude_run, as_json=as_json, cards=True)


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
    from srbench.resuming import prepare_resume

    begun, path = unfinished(name, settings.out, "run")
    head = begun.head
    looking = looking_by_gate(head.looks, head.against, policy, settings.out, head.profile)
    return go_on(path, begun, prepare_resume(head, settings, note), looking), path


def _begin_on_ray(
    settings: Settings, looks: list[int], against: str | None, policy: Path | None
) -> list[Led]:
    from srbench.cli.executor import measure_on_ray, shipped
    from srbench.preparation import brief_run, prepare
    from srbench.profiles import load_profile

    def plan(name: str) -> tuple[Profile, Plan, Prepare]:
        profile = load_profile(name)
        brief = brief_run(shipped(settings), profile, looks=looks, against=against)
        return profile, brief.plan, partial(prepare, brief)

    def looking(profile: str) -> Looking:
        return looking_by_gate(looks, against, policy, settings.out, profile)

    return measure_on_ray(settings, settings.gpu, plan, looking)


def _go_on_on_ray(name: str, settings: Settings, policy: Path | None) -> list[Led]:
    from srbench.cli.executor import go_on_on_ray

    def looking(head: RunRecord) -> Looking:
        return looking_by_gate(head.looks, head.against, policy, settings.out, head.profile)

    return go_on_on_ray(name, settings, "run", begun_brief(settings), looking)


def begun_brief(settings: Settings) -> Callable[[RunRecord], tuple[Profile, Plan, Prepare]]:
    """From the head of a run, what is measured on a cluster and how it is made ready there."""
    from srbench.cli.executor import shipped
    from srbench.preparation import prepare
    from srbench.profiles import load_profile
    from srbench.resuming import brief_resume

    def plan(head: RunRecord) -> tuple[Profile, Plan, Prepare]:
        profile = load_profile(head.profile)
        brief = brief_resume(head, shipped(settings), profile)
        return profile, brief.plan, partial(prepare, brief)

    return plan


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
