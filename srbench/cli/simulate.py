"""The simulation command: a fake device behind the real path, to try what would take a GPU days."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srbench.cli.executor import Address, Executor, on_ray
from srbench.cli.finishing import conclude_run, leave, leave_all
from srbench.cli.looks import Against, PolicyFile, UntilDecided, looking_by_gate, planned_looks
from srbench.cli.measure import (
    Json,
    ListCommand,
    Out,
    Pairs,
    Resume,
    Timeout,
    refuse,
    refuse_changes,
)
from srbench.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from srbench.cases import Case
    from srbench.config import Settings
    from srbench.executors.leader import Led
    from srbench.executors.messages import Prepare
    from srbench.plan import Plan
    from srbench.profiles import Profile
    from srbench.records import Run, RunRecord
    from srbench.running import Looking
    from srbench.simulation.preparing import Design

NOISES = ("quiet", "typical", "noisy")


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command(cls=ListCommand)(simulate)


def simulate(
    noise: Annotated[
        str | None, typer.Option(help="quiet, typical or noisy [default: typical]")
    ] = None,
    cases: Annotated[
        list[str] | None,
        typer.Option(help="smoke, documented, or WIDTHxHEIGHTxSCALE [default: smoke]"),
    ] = None,
    blocks: Annotated[int | None, typer.Option(help="Fresh worker pairs [default: 10]")] = None,
    pairs: Pairs = None,
    seed: Annotated[int | None, typer.Option(help="Of every number [default: 0]")] = None,
    speedup: Annotated[
        float | None, typer.Option(help="True speed-up of the candidate [default: 2]")
    ] = None,
    same_pipeline: Annotated[
        bool,
        typer.Option("--same-pipeline", help="Two revisions, base and head, of one pipeline."),
    ] = False,
    plant: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND[=VALUE]",
            help="Spoil the candidate; repeatable: slow=1.05, memory=1.05, energy=1.1, work=1.01, "
            "bimodal, bad-tile, late-bad-tile, nondeterministic, nan, oom=CASE, crash=CASE, "
            "hang=CASE, throttle[=BLOCK], foreign[=BLOCK].",
        ),
    ] = None,
    until_decided: UntilDecided = False,
    against: Against = None,
    policy: PolicyFile = None,
    pace: Annotated[
        float, typer.Option(help="Real milliseconds that an image takes at least.", min=0)
    ] = 0.0,
    gpu: Annotated[
        str | None,
        typer.Option(
            help="With --executor ray: kinds of cards on whose machines it is simulated "
            "[default: any machine]"
        ),
    ] = None,
    executor: Executor = None,
    address: Address = None,
    timeout: Timeout = None,
    out: Out = None,
    resume: Resume = None,
    as_json: Json = False,
) -> None:
    """Run a seeded fake device through the whole path; nothing is measured, every table says so."""
    from srbench.config import load_settings
    from srbench.simulation.preparing import make_design

    plan = {"cases": cases, "blocks": blocks, "pairs": pairs, "seed": seed}
    device = {"noise": noise, "speedup": speedup, "plant": plant}
    free = {"out": out, "timeout": timeout, "executor": executor, "address": address}
    if resume is not None:
        sequential = {"until_decided": until_decided, "against": against}
        refuse_changes({**plan, **device, **sequential, "same_pipeline": same_pipeline, "gpu": gpu})
        settings = load_settings(free)
        if on_ray(settings, address):
            led = _go_on_on_ray(resume, settings, pace, policy)
            leave_all(led, settings, conclude_run, as_json=as_json, cards=True)
        done, path = _go_on(resume, settings, pace, policy)
    else:
        settings = load_settings({**plan, **free})
        looks = planned_looks(settings.blocks, against, policy, until_decided=until_decided)
        design = make_design(
            _cases(settings),
            noise=_noise(noise or "typical"),
            speedup=_speedup(speedup, same_pipeline=same_pipeline),
            plants=plant or [],
            seed=settings.seed,
            blocks=settings.blocks,
            pairs=settings.pairs,
            looks=looks,
            against=against,
        )
        if on_ray(settings, address):
            led = _begin_on_ray(settings, design, gpu, pace, policy)
            leave_all(led, settings, conclude_run, as_json=as_json, cards=True)
        refuse({"gpu": gpu}, "goes with --executor ray; a simulated device is none of this machine")
        done, path = _begin(settings, design, pace, policy)
    leave(conclude_run(done, path, settings), as_json=as_json)


def _begin(
    settings: Settings, design: Design, pace: float, policy: Path | None
) -> tuple[Run, Path]:
    from srbench.cli.conduct import measure
    from srbench.simulation.preparing import prepare_simulation

    preparation = prepare_simulation(design, settings.out, timeout_s=settings.timeout, pace_ms=pace)
    looks, profile = design.plan.looks, preparation.profile.name
    looking = looking_by_gate(looks, design.against, policy, settings.out, profile)
    return measure(preparation, settings.out, looking)


def _begin_on_ray(
    settings: Settings, design: Design, gpu: str | None, pace: float, policy: Path | None
) -> list[Led]:
    from srbench.cli.executor import measure_on_ray
    from srbench.executors.nodes import simulated_card
    from srbench.profiles import load_profile
    from srbench.simulation.preparing import simulated
    from srbench.simulation.scenario import DEVICE

    def plan(name: str) -> tuple[Profile, Plan, Prepare]:
        profile = load_profile(DEVICE) if name == DEVICE else simulated_card(name)
        prepare = partial(simulated, design, profile, settings.timeout, pace)
        return profile, design.plan, prepare

    def looking(profile: str) -> Looking:
        looks = design.plan.looks
        return looking_by_gate(looks, design.against, policy, settings.out, profile)

    return measure_on_ray(settings, gpu or DEVICE, plan, looking)


def _go_on_on_ray(name: str, settings: Settings, pace: float, policy: Path | None) -> list[Led]:
    from srbench.cli.executor import go_on_on_ray
    from srbench.profiles import profile_or_bare
    from srbench.simulation.preparing import PURPOSE, design_of, simulated

    def plan(head: RunRecord) -> tuple[Profile, Plan, Prepare]:
        design, profile = design_of(head), profile_or_bare(head.profile)
        prepare = partial(simulated, design, profile, settings.timeout, pace)
        return profile, design.plan, prepare

    def looking(head: RunRecord) -> Looking:
        return looking_by_gate(head.looks, head.against, policy, settings.out, head.profile)

    return go_on_on_ray(name, settings, PURPOSE, plan, looking)


def _go_on(name: str, settings: Settings, pace: float, policy: Path | None) -> tuple[Run, Path]:
    from srbench.cli.conduct import go_on, unfinished
    from srbench.simulation.preparing import PURPOSE, design_of, prepare_simulation

    begun, path = unfinished(name, settings.out, PURPOSE)
    preparation = prepare_simulation(
        design_of(begun.head), settings.out, timeout_s=settings.timeout, pace_ms=pace
    )
    head = begun.head
    looking = looking_by_gate(head.looks, head.against, policy, settings.out, head.profile)
    return go_on(path, begun, preparation, looking), path


def _cases(settings: Settings) -> tuple[Case, ...]:
    from srbench.cases import parse_cases

    return parse_cases(settings.cases or ("smoke",))


def _noise(name: str) -> str:
    if name not in NOISES:
        raise UsageError(f"--noise '{name}': unknown.{did_you_mean(name, list(NOISES))}")
    return name


def _speedup(given: float | None, *, same_pipeline: bool) -> float | None:
    """The candidate's speed-up; None for another revision of the baseline's own pipeline."""
    if given is not None and not 0 < given < float("inf"):
        raise UsageError(f"--speedup: expected a factor above 0, got {given:g}")
    if same_pipeline and given is not None:
        raise UsageError("--speedup: two revisions of one pipeline have none; plant slow=FACTOR")
    return None if same_pipeline else given or 2.0
