"""Commands that read results: report, gate, baseline, compare."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srbench.cli.conduct import note
from srbench.errors import ExitCode, NotComparableError, UsageError

if TYPE_CHECKING:
    from srbench.gate import Judgement, Policy
    from srbench.records import Run

Results = Annotated[
    Path | None,
    typer.Option(help="Results folder with runs and baselines [default: results]"),
]


_MOST_PAGES = 20
"""Runs whose own pages are written unasked: each takes seconds and megabytes, nobody reads more."""


def register(app: typer.Typer) -> None:
    """Add this module's commands."""
    app.command()(report)
    app.command()(gate)
    app.command()(compare)
    room = typer.Typer(no_args_is_help=True, help="Runs that later runs are held against.")
    room.command("promote")(promote)
    room.command("list")(list_)
    room.command("show")(show)
    app.add_typer(room, name="baseline")


def report(
    runs: Annotated[
        list[str] | None, typer.Argument(metavar="[RUN]...", help="Results files or run ids.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the pages.")] = Path("reports"),
    group: Annotated[
        str | None, typer.Option(help="Also the runs that one command began on several cards.")
    ] = None,
    pages: Annotated[
        bool | None,
        typer.Option(
            "--pages/--no-pages",
            help=f"A page of each run, too [default: of at most {_MOST_PAGES} runs]",
        ),
    ] = None,
    results: Results = None,
) -> None:
    """Write tables and figures of runs, the newest when none is named; of several cards, combined.

    Cards stand side by side in cards.md, without a verdict between them.
    """
    from srbench.store import find_runs, newest_run, runs_of

    root = _root(results)
    paths = find_runs(runs or [], root) + (runs_of(group, root) if group is not None else [])
    paths = list(dict.fromkeys(paths)) or [newest_run(root)]
    if pages is None:
        pages = len(paths) <= _MOST_PAGES
    if pages:
        _write_pages(paths, out, root)
    else:
        note(f"report: no page of each of the {len(paths)} runs is written; --pages writes them")
        _write_fleet(paths, out)


def _write_pages(paths: list[Path], out: Path, root: Path) -> None:
    """A page of each profile and run, and the combined one where there are several profiles."""
    from srbench.gate import load_policy
    from srbench.report import write_reports
    from srbench.report.cards import write_cards
    from srbench.report.history import stored_runs
    from srbench.store import read_run

    chosen = [read_run(path) for path in paths]
    newest = {run.head.profile: run for run in chosen}
    past = [old for run in newest.values() for old in stored_runs(root, run, note)]
    pages = write_reports(chosen, out, history_of=past, policy=load_policy(None), results=root)
    for page in pages.values():
        typer.echo(str(page))
    if len(pages) > 1:
        typer.echo(str(write_cards(chosen, out)))


def _write_fleet(paths: list[Path], out: Path) -> None:
    """The combined report alone, one run in memory at a time; a damaged file is left out, named."""
    from srbench.report.cards import digest_run, write_cards
    from srbench.store import read_run

    found, left_out = [], []
    for path in paths:
        try:
            found.append(digest_run(read_run(path)))
        except UsageError as error:
            left_out.append(f"left out: {error}")
            note(f"report: {left_out[-1]}")
    if not found:
        raise UsageError(f"no run is left to report; {left_out[-1]}")
    typer.echo(str(write_cards(found, out, left_out)))


def gate(
    run: Annotated[str, typer.Argument(help="Results file or run id.")],
    against: Annotated[
        str | None, typer.Option(help="Promoted baseline, results file or run id.")
    ] = None,
    policy: Annotated[
        Path | None, typer.Option(help="TOML file with a [gate] table [default: srbench.toml]")
    ] = None,
    junit: Annotated[Path | None, typer.Option(help="Also write JUnit XML here.")] = None,
    github: Annotated[
        bool, typer.Option("--github", help="Also print GitHub annotations and a step summary.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    results: Results = None,
) -> None:
    """Judge a run: 0 pass, 1 regression, 2 wrong policy, 3 open, 4 broken cells, 5 no baseline."""
    from srbench.gate import load_policy
    from srbench.store import find_run, read_run

    root = _root(results)
    rules = load_policy(policy)
    judged = read_run(find_run(run, root))
    judgement = _judgement(judged, rules, against, root)
    _print_judgement(judgement, as_json=json)
    if against is not None:
        _suggest_promotion(judgement, run, against)
    if junit is not None:
        from srbench.report.junit import junit_xml

        _write(junit, junit_xml(judgement), "--junit")
    if github:
        _print_github(judgement, to_stderr=json)
    _leave(judgement)


def promote(
    run: Annotated[str, typer.Argument(help="Results file or run id.")],
    name: Annotated[str, typer.Option(help="Name of the baseline.")] = "main",
    force: Annotated[
        bool, typer.Option("--force", help="Even if unfinished, broken or unfaithful.")
    ] = False,
    policy: Annotated[
        Path | None, typer.Option(help="TOML file with a [gate] table [default: srbench.toml]")
    ] = None,
    results: Results = None,
) -> None:
    """Make a run the baseline that `gate --against NAME` holds others against."""
    from srbench import baselines
    from srbench.gate import load_policy
    from srbench.store import find_run

    root = _root(results)
    path = find_run(run, root)
    made = baselines.promote(path, root, name, load_policy(policy), force=force)
    typer.echo(str(made.path))


def list_(results: Results = None) -> None:
    """List the promoted baselines: profile, name, run, start, cases."""
    from srbench.baselines import list_baselines
    from srbench.report.tables import plain_table
    from srbench.store import read_head

    rows = []
    for each in list_baselines(_root(results)):
        head = read_head(each.path)
        rows.append([each.profile, each.name, head.run_id, head.started_at, " ".join(head.cases)])
    if rows:
        typer.echo(plain_table(["profile", "name", "run", "started", "cases"], rows, left=5))
    else:
        typer.echo("no baseline; make one with: srbench baseline promote RUN", err=True)


def show(
    name: Annotated[str, typer.Argument(help="Name of the baseline.")] = "main",
    results: Results = None,
) -> None:
    """Show the table of a promoted baseline, for every profile that has it."""
    from srbench.baselines import list_baselines
    from srbench.errors import did_you_mean
    from srbench.report.tables import console_table
    from srbench.store import read_run

    known = list_baselines(_root(results))
    found = [each for each in known if each.name == name]
    if not found:
        hint = did_you_mean(name, [each.name for each in known]) if known else ""
        raise NotComparableError(f"no baseline '{name}' in {_root(results) / 'baselines'}.{hint}")
    typer.echo("\n\n".join(console_table(read_run(each.path)) for each in found))


def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="Results file or run id.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Results file or run id.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
    results: Results = None,
) -> None:
    """Show two runs side by side, without a verdict."""
    import json

    from srbench.report.compare import compare_json, compare_table
    from srbench.store import find_run, read_run

    root = _root(results)
    a, b = (read_run(find_run(each, root)) for each in (first, second))
    typer.echo(json.dumps(compare_json(a, b)) if as_json else compare_table(a, b))


def _root(results: Path | None) -> Path:
    """The results folder: the option, else the configured `out`."""
    from srbench.config import load_settings

    return load_settings({"out": results}).out


def _judgement(run: Run, policy: Policy, against: str | None, root: Path) -> Judgement:
    from srbench.baselines import resolve
    from srbench.gate import judge, not_comparable
    from srbench.noise import read_noise

    noise = read_noise(root, run.head.profile)
    try:
        if against is None:
            return judge(run, policy, noise=noise)
        return judge(run, policy, *resolve(against, run.head.profile, root), noise=noise)
    except NotComparableError as error:
        return not_comparable(run, against or "", str(error))


def _print_judgement(judgement: Judgement, *, as_json: bool) -> None:
    import json

    from srbench.report.verdict import verdict_json, verdict_table

    if as_json:
        typer.echo(json.dumps(verdict_json(judgement), indent=2, allow_nan=False))
    else:
        typer.echo(verdict_table(judgement))
    warnings = list(judgement.warnings)
    if judgement.exit_code == ExitCode.OK:
        warnings += [f"open question: {check.message}" for check in judgement.open_questions]
    for warning in warnings:
        typer.echo(f"srbench gate: warning: {warning}", err=True)


def _suggest_promotion(judgement: Judgement, run: str, against: str) -> None:
    """A gain is kept only by promoting it: against the old baseline it could be lost unnoticed."""
    from srbench.baselines import promoted_name
    from srbench.gate import Verdict

    if judgement.against != promoted_name(against) or judgement.simulated:
        return
    faster = [check for check in judgement.improvements if check.metric == "latency"]
    if faster and judgement.verdict is Verdict.PASS and not judgement.open_questions:
        typer.echo(
            f"srbench gate: note: {faster[0].message}; keep it with: "
            f"srbench baseline promote {run} --name {against}",
            err=True,
        )


def _print_github(judgement: Judgement, *, to_stderr: bool) -> None:
    """Annotations are read by the runner from either stream; stdout may hold the JSON document."""
    from srbench.report.github import step_summary, workflow_commands

    for line in workflow_commands(judgement):
        typer.echo(line, err=to_stderr)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        _write(Path(summary), step_summary(judgement), "$GITHUB_STEP_SUMMARY", append=True)


def _write(path: Path, text: str, option: str, *, append: bool = False) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a" if append else "w", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise UsageError(f"{option} {path}: cannot be written: {error.strerror}") from error


def _leave(judgement: Judgement) -> None:
    if judgement.exit_code != ExitCode.OK:
        typer.echo(judgement.line(), err=True)
        raise typer.Exit(int(judgement.exit_code))
