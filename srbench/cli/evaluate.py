"""The command evaluate: pictures against references, and a candidate against a baseline."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srbench.cli.devices import Device, choose_device
from srbench.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from srbench.fidelity.candidates import Comparison
    from srbench.fidelity.evaluate import Evaluation, Scores
    from srbench.fidelity.plan import Plan

_LINES = 20
"""Lines of progress where there is no terminal."""


def register(app: typer.Typer) -> None:
    """Add this module's command."""
    app.command()(evaluate)


def evaluate(
    sr_dir: Annotated[
        Path, typer.Argument(help="Pictures to judge, or folders of samples (sample-0000, …).")
    ],
    hr_dir: Annotated[
        Path,
        typer.Argument(
            help="References, paired by name without suffix; or a root of DIV2K, or a prepared val."
        ),
    ],
    metrics: Annotated[str, typer.Option(help="Comma-separated names.")] = "psnr,ssim,lpips",
    lr_dir: Annotated[
        Path | None,
        typer.Option(help="Inputs, for lr_psnr [default: the layout's, else made of the HR]"),
    ] = None,
    scale: Annotated[
        int | None, typer.Option(help="Whole factor, 1 to 8 [default: from the sizes]")
    ] = None,
    crop: Annotated[
        bool, typer.Option("--crop", help="Cut references that are a little larger.")
    ] = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out and count what cannot be read.")
    ] = False,
    against: Annotated[
        Path | None,
        typer.Option(help="Pictures of a baseline: is SR_DIR no worse? Exit 0 yes, 1 no, 3 open."),
    ] = None,
    margins: Annotated[
        list[str] | None,
        typer.Option(
            "--margin",
            metavar="METRIC=LOSS",
            help="Mean loss that passes, with --against [default: psnr=0.1, lpips=0.005]",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Keep results here, value by value: the same command goes on."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")] = False,
    table: Annotated[
        Path | None, typer.Option("--csv", help="Also write the values to this file.")
    ] = None,
    page: Annotated[
        Path | None, typer.Option("--markdown", help="Also write tables to this file.")
    ] = None,
    provider: Annotated[str, typer.Option(help="`pyiqa` or `torchmetrics`.")] = "pyiqa",
    device: Device = "auto",
) -> None:
    """Measure pictures against references, in float32."""
    from srbench.fidelity.candidates import parse_margins
    from srbench.fidelity.metrics import parse_metrics
    from srbench.fidelity.plan import Question, make_plan
    from srbench.upscaling import check_scale

    if scale is not None:
        check_scale(scale)
    names = tuple(parse_metrics(metrics))
    if margins and against is None:
        raise UsageError("--margin: only with --against, the pictures of a baseline")
    allowed = {} if against is None else parse_margins(margins or [], names)
    _check_targets(table, page)
    question = Question(sr_dir, hr_dir, names, lr_dir, scale, crop, skip_broken)
    plans = [make_plan(question)]
    if against is not None:
        plans.append(make_plan(replace(question, sr_dir=against)))
    found, *baseline = _measure(plans, choose_device(device), provider, out)
    comparison = _compare(found, baseline[0], allowed, str(against)) if baseline else None
    texts = _texts(found, comparison)
    _write(texts, {"csv": table, "md": page})
    if out is not None:
        _write(texts, {suffix: out / f"results.{suffix}" for suffix in texts})
    _show(found, comparison, texts["json"] if as_json else None)
    if comparison is not None and comparison.exit_code != ExitCode.OK:
        _note(f"srbench evaluate: {comparison.line()}")
        raise typer.Exit(int(comparison.exit_code))


def _measure(plans: list[Plan], device: str, provider: str, out: Path | None) -> list[Evaluation]:
    from srbench.fidelity.evaluate import evaluate, open_bench
    from srbench.fidelity.journal import Journal

    with ExitStack() as stack:
        journal = None if out is None else stack.enter_context(Journal.open(out))
        bench = open_bench(device, provider, journal)
        done = stack.enter_context(_progress(sum(len(plan.jobs) for plan in plans)))
        return [evaluate(plan, bench, done) for plan in plans]


def _compare(
    found: Evaluation, baseline: Evaluation, margins: dict[str, float], name: str
) -> Comparison:
    from srbench.fidelity.candidates import judge_candidate

    return judge_candidate(found, baseline, margins, name)


@contextmanager
def _progress(pictures: int) -> Iterator[Callable[[Scores], None]]:
    """A bar when stderr is a terminal, else a line every so many pictures."""
    if not sys.stderr.isatty():
        yield _lines(pictures)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task("measuring", total=pictures)
        yield lambda _: bar.advance(task)


def _lines(pictures: int) -> Callable[[Scores], None]:
    every = -(-pictures // _LINES)
    count = 0

    def done(scores: Scores) -> None:
        nonlocal count
        count += 1
        if count % every == 0 or count == pictures:
            _note(f"[{count}/{pictures}] {scores.file}")

    return done


def _texts(found: Evaluation, comparison: Comparison | None) -> dict[str, str]:
    """Suffix -> content of a results file."""
    from srbench.fidelity.tables import csv_text, markdown_text

    document = found.to_json()
    if comparison is not None:
        document["comparison"] = comparison.to_json()
    return {
        "json": json.dumps(document, indent=1) + "\n",
        "csv": csv_text(found),
        "md": markdown_text(found, comparison),
    }


def _check_targets(*paths: Path | None) -> None:
    """Before anything is measured for them."""
    from srbench.store import check_writable

    for path in paths:
        if path is not None:
            check_writable(path.parent)
            if path.is_dir():
                raise UsageError(f"{path}: is a folder; name a file")


def _write(texts: dict[str, str], targets: dict[str, Path | None]) -> None:
    from srbench.durable import replace_file

    for suffix, path in targets.items():
        if path is None:
            continue
        try:
            replace_file(path, texts[suffix])
        except OSError as error:
            raise UsageError(f"{path}: cannot write ({error.strerror})") from error


def _show(found: Evaluation, comparison: Comparison | None, document: str | None) -> None:
    from srbench.fidelity.tables import console_lines

    if document is not None:
        typer.echo(document, nl=False)
    else:
        for line in console_lines(found, comparison):
            typer.echo(line)
        for name, reason in sorted(found.reasons.items()):
            _note(f"{name}: not measured: {reason}")
    for picture in found.skipped:
        _note(f"skipped: {picture.file}: {picture.reason}")


def _note(text: str) -> None:
    typer.echo(text, err=True)
