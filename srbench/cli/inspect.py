"""Commands that look and measure nothing: plan, doctor, list, show."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from srbench.cli.measure import (
    Blocks,
    Cases,
    Gpu,
    Json,
    ListCommand,
    Out,
    Pairs,
    Pipelines,
    Seed,
    Sets,
)
from srbench.errors import ExitCode

if TYPE_CHECKING:
    from srbench.cases import Case
    from srbench.plan import Plan
    from srbench.protocol import Counted

_TERA = 1e12


class Listed(StrEnum):
    """What `list` knows."""

    PIPELINES = "pipelines"
    CASES = "cases"
    PROFILES = "profiles"
    METRICS = "metrics"


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command(cls=ListCommand)(plan)
    app.command()(doctor)
    app.command("list")(list_)
    app.command()(show)


def plan(
    gpu: Gpu = None,
    cases: Cases = None,
    pipelines: Pipelines = None,
    blocks: Blocks = None,
    pairs: Pairs = None,
    seed: Seed = None,
    sets: Sets = None,
    out: Out = None,
    work: Annotated[
        bool, typer.Option("--work/--no-work", help="Count the FLOPs of every case and arm.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Show what `run` would measure, in which order, for how long, and the work in it."""
    from srbench.cli.conduct import note
    from srbench.config import load_settings
    from srbench.counting import count_work
    from srbench.engines import launched
    from srbench.forecast import forecast
    from srbench.nvml import list_gpus
    from srbench.plan import make_plan
    from srbench.preparation import checked_assignments, chosen_arms, chosen_cases
    from srbench.profiles import choose_profile, load_profile
    from srbench.revisions import checked_out

    settings = load_settings(
        {
            "gpu": gpu,
            "cases": cases,
            "pipelines": pipelines,
            "blocks": blocks,
            "pairs": pairs,
            "seed": seed,
            "options": sets,
            "out": out,
        }
    )
    auto = settings.gpu == "auto"
    profile = choose_profile("auto", list_gpus())[0] if auto else load_profile(settings.gpu)
    arms = chosen_arms(settings)
    chosen = chosen_cases(settings, profile.device)
    assignments = checked_assignments(settings.options, arms)
    design = make_plan(
        [case.name for case in chosen],
        [arm.name for arm in arms],
        device=profile.device,
        seed=settings.seed,
        blocks=settings.blocks,
        pairs=settings.pairs,
    )
    expected = forecast(design, profile, settings.out)
    arms = tuple(launched(arm, assignments) for arm in arms)
    countable = [arm for arm in arms if not arm.launch.foreign]
    counted: dict[tuple[str, str], Counted] = {}
    if work and countable:
        code = [checked_out(arm, note) for arm in countable]
        counted = count_work(code, assignments, chosen, settings.timeout).work
    document = {
        "profile": profile.name,
        **asdict(design),
        "order": [[asdict(cell) for cell in design.block(i)] for i in range(design.blocks)],
        "timed_images": design.timed_images,
        "expected_seconds": expected.seconds,
        "expected_from": expected.source,
        "flops": _by_case(counted),
        "not_counted": [arm.name for arm in arms if work and arm.launch.foreign],
    }
    typer.echo(json.dumps(document) if as_json else _plan_text(design, document, chosen))


def _by_case(work: Mapping[tuple[str, str], Counted]) -> dict[str, dict[str, Any]]:
    cases: dict[str, dict[str, Any]] = {}
    for (case, arm), counted in work.items():
        total = sum(counted.flops.values())
        cases.setdefault(case, {})[arm] = {"total": total, "stages": counted.flops}
    return cases


def _plan_text(design: Plan, document: dict[str, Any], chosen: tuple[Case, ...]) -> str:
    from srbench.report.tables import plain_table

    seconds = document["expected_seconds"]
    minutes = "unknown" if seconds is None else f"about {seconds / 60:.1f} minutes"
    lines = [
        f"profile {document['profile']}: {design.blocks} blocks x {len(design.cases)} cases x "
        f"{design.pairs} pairs of {len(design.arms)} arms, {design.timed_images} timed images",
        f"time: {minutes} ({document['expected_from']})",
    ]
    lines += [
        f"block {index}: " + " ".join(f"{cell.case}({_letters(cell.rounds, design)})" for cell in b)
        for index, b in enumerate(design.block(i) for i in range(design.blocks))
    ]
    letters = [f"{chr(65 + index)} = {arm}" for index, arm in enumerate(design.arms)]
    lines += ["where " + ", ".join(letters), ""]
    apart = document["not_counted"]
    if document["flops"]:
        arms = [arm for arm in design.arms if arm not in apart]
        lines.append(plain_table(*_work_table(document["flops"], arms, chosen)))
        lines.append("TFLOP an image, counted on the full-size architecture")
    if apart:
        lines.append(f"not counted: {', '.join(apart)} (programs of their own)")
    return "\n".join(lines).rstrip()


def _letters(rounds: tuple[tuple[str, ...], ...], design: Plan) -> str:
    return " ".join("".join(chr(65 + design.arms.index(a)) for a in order) for order in rounds)


def _work_table(
    flops: dict[str, dict[str, Any]], arms: Sequence[str], chosen: tuple[Case, ...]
) -> tuple[list[str], list[list[str]]]:
    rows = [
        [case.name, *(f"{flops[case.name][arm]['total'] / _TERA:.2f}" for arm in arms)]
        for case in chosen
    ]
    return ["Case", *(f"{arm} (TFLOP)" for arm in arms)], rows


def doctor(
    weights: Annotated[str | None, typer.Option(help="Path, mini or synthetic.")] = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Examine this machine: versions, GPU, weights, disk; each line ok, warn or bad."""
    from srbench.config import load_settings
    from srbench.doctor import examine

    findings = list(examine(load_settings({"weights": weights, "out": out})))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        for finding in findings:
            typer.echo(f"{finding.word:4}  {finding.what}: {finding.detail}")
    bad = [finding.what for finding in findings if finding.word == "bad"]
    if bad:
        typer.echo(f"srbench: doctor: {', '.join(bad)} will not work", err=True)
        raise typer.Exit(ExitCode.INFRASTRUCTURE)


def list_(
    what: Annotated[Listed, typer.Argument(help="pipelines, cases, profiles or metrics")],
    work: Annotated[
        bool, typer.Option("--work", help="With cases: count the FLOPs of the built-in pipelines.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List what there is by name."""
    listings: dict[Listed, Callable[[], list[dict[str, Any]]]] = {
        Listed.PIPELINES: _pipelines,
        Listed.CASES: lambda: _cases(work=work),
        Listed.PROFILES: _profiles,
        Listed.METRICS: _metrics,
    }
    rows = listings[what]()
    if as_json:
        typer.echo(json.dumps(rows))
        return
    from srbench.report.tables import plain_table

    header = list(rows[0])
    typer.echo(plain_table(header, [[_word(row[key]) for key in header] for row in rows]))


def _word(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _pipelines() -> list[dict[str, Any]]:
    from srbench.registry import find_pipeline, light_options, option_names, pipeline_names

    rows = []
    for name in pipeline_names():
        options, entry = light_options(name), find_pipeline(name)
        rows.append(
            {
                "name": name,
                "target": entry.script or entry.target,
                "note": entry.note,
                "options": None if options is None else " ".join(option_names(options)),
            }
        )
    return rows


def _cases(*, work: bool) -> list[dict[str, Any]]:
    from srbench.armspec import parse_arm
    from srbench.built_in import BUILT_IN
    from srbench.cases import MATRICES
    from srbench.config import Settings
    from srbench.counting import count_work

    rows = [
        {"name": case.name, "matrix": matrix, "output": f"{case.width * case.scale}x"
         f"{case.height * case.scale}"}
        for matrix, cases in MATRICES.items()
        for case in cases
    ]  # fmt: skip
    if not work:
        return rows
    arms = tuple(name for name, entry in BUILT_IN.items() if entry.script is None)
    cases = [case for matrix in MATRICES.values() for case in matrix]
    specs = [parse_arm(arm) for arm in arms]
    assignments: dict[str, dict[str, str]] = {"": {}, **{arm: {} for arm in arms}}
    counts = count_work(specs, assignments, cases, Settings().timeout).work
    return [
        {**row, **{f"{a}_tflop": sum(counts[row["name"], a].flops.values()) / _TERA for a in arms}}
        for row in rows
    ]


def _profiles() -> list[dict[str, Any]]:
    from srbench.profiles import load_profile, profile_names

    fields = ("name", "title", "fp16_tflops", "bandwidth_gb_s", "memory_gib", "power_w")
    return [
        {field: getattr(load_profile(name), field) for field in fields} for name in profile_names()
    ]


def _metrics() -> list[dict[str, Any]]:
    from srbench.fidelity.metrics import METRICS

    return [asdict(metric) for metric in METRICS.values()]


def show(
    run: Annotated[str, typer.Argument(help="Results file or run id.")],
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Show one run: what was decided, what happened, how noisy it was; no verdict."""
    from srbench.config import load_settings
    from srbench.report.overview import overview_json, overview_text
    from srbench.store import find_run, read_run

    path = find_run(run, load_settings({"out": out}).out)
    found = read_run(path)
    if as_json:
        for piece in overview_json(found, str(path)):
            typer.echo(piece, nl=False)
    else:
        typer.echo(overview_text(found))
