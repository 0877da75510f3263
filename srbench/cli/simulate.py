"""The simulation command: a fake device behind the real path, to try what would take a GPU days."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srbench.cli.looks import Against, PolicyFile, UntilDecided, looking_by_gate, planned_looks
from srbench.cli.measure import (
    Json,
    ListCommand,
    Out,
    Pairs,
    Resume,
    Timeout,
    finish,
    refuse_changes,
)
from srbench.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from srbench.cases import Case
    from srbench.config import Settings
    from srbench.records import Run

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
    timeout: Timeout = None,
    out: Out = None,
    resume: Resume = None,
    as_json: Json = False,
) -> None:
    """Run a seeded fake device through the whole path; nothing is measured, every table says so."""
    from srbench.config import load_settings

    plan = {"cases": cases, "blocks": blocks, "pairs": pairs, "seed": seed}
    device = {"noise": noise, "speedup": speedup, "plant": plant}
    free = {"out": out, "timeout": timeout}
    if resume is not None:
        sequential = {"until_decided": until_decided, "against": against}
        refuse_changes({**plan, **device, **sequential, "same_pipeline": same_pipeline})
        settings = load_settings(free)
        done, path = _go_on(resume, settings, pace, policy)
    else:
        settings = load_settings({**plan, **free})
        looks = planned_looks(settings.blocks, against, policy, until_decided=until_decided)
        arms = {
            "noise": _noise(noise or "typical"),
            "speedup": _speedup(speedup, same_pipeline=same_pipeline),
            "plants": plant or [],
            "looks": looks,
            "against": against,
        }
        done, path = _begin(settings, arms, pace, policy)
    finish(done, path, settings, as_json=as_json)


def _begin(
    settings: Settings, arms: dict[str, Any], pace: float, policy: Path | None
) -> tuple[Run, Path]:
    from srbench.cli.conduct import measure
    from srbench.simulation.preparing import make_design, prepare_simulation

    design = make_design(
        _cases(settings),
        **arms,
        seed=settings.seed,
        blocks=settings.blocks,
        pairs=settings.pairs,
    )
    preparation = prepare_simulation(design, settings.out, timeout_s=settings.timeout, pace_ms=pace)
    profile = preparation.profile.name
    looking = looking_by_gate(arms["looks"], arms["against"], policy, settings.out, profile)
    return measure(preparation, settings.out, looking)


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
