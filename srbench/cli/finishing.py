"""The end of a command that measured: what is printed of its runs, and its exit code."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from srbench.errors import ExitCode

if TYPE_CHECKING:
    from srbench.config import Settings
    from srbench.executors.leader import Led
    from srbench.records import Run

_BY_WEIGHT = (
    ExitCode.OK,
    ExitCode.INCONCLUSIVE,
    ExitCode.REGRESSION,
    ExitCode.NOT_COMPARABLE,
    ExitCode.USAGE,
    ExitCode.INFRASTRUCTURE,
    ExitCode.INTERRUPTED,
)
"""Of several runs the last of these counts: first of all whether there is a result."""


@dataclass(frozen=True, slots=True)
class Concluded:
    """What a command says of one run.

    Attributes:
        code: Its exit code.
        line: Of a code that is not zero.
        document: For `--json`.
        text: For people; empty where nothing was measured.
    """

    code: ExitCode
    line: str
    document: dict[str, Any] = field(default_factory=dict)
    text: str = ""


Conclude = Callable[["Run", Path, "Settings"], Concluded]


def leave(concluded: Concluded, *, as_json: bool) -> NoReturn:
    """Print what there is to say of the only run, and exit."""
    if as_json and concluded.document:
        typer.echo(json.dumps(concluded.document))
    if concluded.text and not as_json:
        typer.echo(concluded.text)
    if concluded.line:
        typer.echo(f"srbench: {concluded.line}", err=True)
    raise typer.Exit(int(concluded.code))


def leave_all(
    led: Sequence[Led],
    settings: Settings,
    conclude: Conclude,
    *,
    as_json: bool,
    cards: bool = False,
) -> NoReturn:
    """Print what there is to say of the runs that were led on a cluster, and exit.

    Args:
        led: The runs.
        settings: Of the command.
        conclude: Of one run.
        as_json: Print one JSON document.
        cards: Hold several side by side.
    """
    found = [_concluded(each, settings, conclude) for each in led]
    if len(found) == 1:
        leave(found[0], as_json=as_json)
    document: dict[str, Any] = {"runs": [each.document for each in found]}
    texts = [each.text for each in found if each.text]
    measured = [each.run for each in led if each.run is not None and each.run.finished_blocks]
    if cards and measured:
        from srbench.preparation import report_folder
        from srbench.report.cards import cards_table, write_cards

        page = write_cards(measured, report_folder(settings.out))
        document["report"] = str(page)
        texts += [cards_table(measured), f"report: {page}"]
    lines = [f"{e.profile}: {c.line}" for e, c in zip(led, found, strict=True) if c.line]
    code = max((each.code for each in found), key=_BY_WEIGHT.index)
    line = "\nsrbench: ".join(lines)
    leave(Concluded(code, line, document, "\n\n".join(texts)), as_json=as_json)


def _concluded(led: Led, settings: Settings, conclude: Conclude) -> Concluded:
    """What is said of a run; of one that broke off, what it has until there."""
    if led.run is None or led.path is None:
        code = ExitCode.INTERRUPTED if led.error is None else _code(led.error)
        line = str(led.error or "interrupted before anything was measured")
        document = {"run": None, "profile": led.profile, "exit_code": int(code), "error": line}
        return Concluded(code, line, document)
    concluded = conclude(led.run, led.path, settings)
    if led.error is None:
        return concluded
    code, line = _code(led.error), str(led.error)
    document = concluded.document and {**concluded.document, "exit_code": int(code), "error": line}
    return Concluded(code, line, document, concluded.text)


def _code(error: Exception) -> ExitCode:
    return getattr(error, "exit_code", ExitCode.USAGE)


def conclude_run(done: Run, path: Path, settings: Settings) -> Concluded:
    """The table of a run and its page, which is written."""
    from srbench.cli.conduct import how_it_ended, note
    from srbench.preparation import report_folder
    from srbench.report import write_report
    from srbench.report.history import stored_runs
    from srbench.report.tables import console_table

    code, line = how_it_ended(done, path)
    page, text = None, ""
    if done.finished_blocks:
        past = stored_runs(settings.out, done, note)
        page = write_report(
            [done], report_folder(settings.out), history_of=past, results=settings.out
        )
        text = f"{console_table(done)}\nresults: {path}\nreport: {page}"
    return Concluded(code, line, _document(done, path, page, code), text)


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
