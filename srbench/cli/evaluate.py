"""The command evaluate: pictures against references, and a candidate against a baseline."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from srbench.cli.crews import Actors
from srbench.cli.devices import Device, choose_device
from srbench.cli.evaluating import measure_here, measure_on_ray
from srbench.cli.executor import Address, Executor, asks_for_ray
from srbench.cli.interrupts import saying_so
from srbench.errors import ExitCode, UsageError
from srbench.outcome import one_line

if TYPE_CHECKING:
    from srbench.fidelity.candidates import Comparison
    from srbench.fidelity.evaluate import Evaluation
    from srbench.fidelity.plan import Plan, Question, Size

_RESULTS = ("json", "csv", "md")
_CHECKING_S = 5
"""How long checking files may be silent."""


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
    executor: Executor = None,
    address: Address = None,
    actors: Actors = None,
) -> None:
    """Measure pictures against references, in float32."""
    from srbench.fidelity.candidates import parse_margins
    from srbench.fidelity.metrics import parse_metrics
    from srbench.fidelity.plan import Question
    from srbench.upscaling import check_scale

    if scale is not None:
        check_scale(scale)
    remote = asks_for_ray(executor, {"--address": address, "--actors": actors})
    names = tuple(parse_metrics(metrics))
    if margins and against is None:
        raise UsageError("--margin: only with --against, the pictures of a baseline")
    allowed = {} if against is None else parse_margins(margins or [], names)
    _check_targets(table, page)
    _check_out(out)
    question = Question(sr_dir, hr_dir, names, lr_dir, scale, crop, skip_broken)
    kept = "; the same command goes on" if out else "; --out DIR would keep what is measured"
    with saying_so(kept):
        plans = _plans(question, against)
        if remote:
            found, *baseline = measure_on_ray(plans, address, device, actors, provider, out)
        else:
            found, *baseline = measure_here(plans, choose_device(device), provider, out)
    comparison = _compare(found, baseline[0], allowed, str(against)) if baseline else None
    texts = _texts(found, comparison)
    _write(texts, {"csv": table, "md": page})
    if out is not None:
        _write(texts, {suffix: out / f"results.{suffix}" for suffix in texts})
    _show(found, comparison, texts["json"] if as_json else None)
    if comparison is not None and comparison.exit_code != ExitCode.OK:
        _note(f"srbench evaluate: {comparison.line()}")
        raise typer.Exit(int(comparison.exit_code))


def _plans(question: Question, against: Path | None) -> list[Plan]:
    """Of the candidate and, where there is one, the baseline; nothing is measured for a bad one."""
    from srbench.fidelity.candidates import check_same_pictures
    from srbench.fidelity.plan import make_plan

    size_of = _checked()
    plans = [make_plan(question, size_of)]
    _name_others(plans[0])
    if against is not None:
        plans.append(make_plan(replace(question, sr_dir=against), size_of))
        ours, theirs = ([job.item.samples[0].name for job in plan.jobs] for plan in plans)
        check_same_pictures(ours, theirs, str(against))
    return plans


def _name_others(plan: Plan) -> None:
    """Folders beside the pictures are no mistake, but a mean without them may be one."""
    from srbench.images import folders_of_images

    first = plan.jobs[0].item.samples
    if len(first) > 1:
        return
    for folder in folders_of_images(first[0].parent):
        _note(f"{folder}: a folder beside the pictures; what is in it is not measured")


def _checked() -> Callable[[Path], Size]:
    """Sizes of pictures, each of them read once; what takes long says how far it is."""
    from srbench.fidelity.plan import read_size

    sizes: dict[Path, Size] = {}
    told = time.monotonic()

    def size_of(path: Path) -> Size:
        nonlocal told
        if path not in sizes:
            sizes[path] = read_size(path)
        if time.monotonic() - told > _CHECKING_S:
            told = time.monotonic()
            _note(f"{len(sizes)} files checked so far")
        return sizes[path]

    return size_of


def _compare(
    found: Evaluation, baseline: Evaluation, margins: dict[str, float], name: str
) -> Comparison:
    from srbench.fidelity.candidates import judge_candidate

    return judge_candidate(found, baseline, margins, name)


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
    from srbench.images import SUFFIXES
    from srbench.store import check_writable

    named = [path for path in paths if path is not None]
    for path in named:
        if path.suffix.lower() in SUFFIXES:
            raise UsageError(f"{path}: the name of a picture; name a text file")
        if named.count(path) > 1:
            raise UsageError(f"{path}: named twice; each option writes a file of its own")
        check_writable(path.parent)
        if path.is_dir():
            raise UsageError(f"{path}: is a folder; name a file")


def _check_out(out: Path | None) -> None:
    """A folder's results are replaced only beside the journal that they were made with."""
    from srbench.fidelity.journal import NAME

    if out is None or (out / NAME).exists():
        return
    for suffix in _RESULTS:
        if os.path.lexists(path := out / f"results.{suffix}"):
            raise UsageError(
                f"{path}: there already and not of srbench evaluate; name another folder"
            )


def _write(texts: dict[str, str], targets: dict[str, Path | None]) -> None:
    from srbench.durable import replace_file

    for suffix, path in targets.items():
        if path is None:
            continue
        try:
            # File names may hold bytes that are no text.
            replace_file(path, texts[suffix].encode("utf-8", "replace").decode("utf-8"))
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
        _note(one_line(f"skipped: {picture.file}: {picture.reason}", 1000))


def _note(text: str) -> None:
    typer.echo(text, err=True)
