"""Write the report of some runs to a folder: Markdown with figures, HTML pages beside it."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from srbench.errors import NotComparableError, UsageError
from srbench.gate import Judgement, Policy, judge
from srbench.records import Run
from srbench.report.history import Remembered, history
from srbench.report.model import Comparison, ReportModel, build_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_JUDGED = ("run", "simulation")
"""Purposes with two different arms whose times were taken."""


def write_report(
    runs: list[Run],
    out: Path,
    *,
    history_of: Sequence[Run | Remembered] = (),
    policy: Policy | None = None,
    results: Path | None = None,
) -> Path:
    """Write every page and return the last run's.

    Args:
        runs: At least one run; runs of one profile share a Markdown page, in the order given.
        out: Folder, created if missing.
        history_of: Earlier runs; those that measured the same are each run's history.
        policy: What the gate's table is judged by; the defaults when None.
        results: Folder of the runs, where `srbench roofline` leaves their limits.

    Raises:
        UsageError: No run was given, or the folder cannot be written.
    """
    if not runs:
        raise UsageError("report: no run given; measure one with `srbench run`")
    pages = write_reports(runs, out, history_of=history_of, policy=policy, results=results)
    return pages[runs[-1].head.profile]


def write_reports(
    runs: list[Run],
    out: Path,
    *,
    history_of: Sequence[Run | Remembered] = (),
    policy: Policy | None = None,
    results: Path | None = None,
) -> dict[str, Path]:
    """Write `out/<profile>.md` with its figures for each profile, and one HTML page a run.

    The HTML page is `<profile>.html`, or `<profile>_<run id>.html` where runs share a profile.

    Returns:
        Profile -> Markdown page.

    Raises:
        UsageError: The folder cannot be written.
    """
    by_profile: dict[str, list[Run]] = {}
    for run in runs:
        by_profile.setdefault(run.head.profile, []).append(run)
    rules = Policy() if policy is None else policy
    known = [*history_of, *runs]
    try:
        out.mkdir(parents=True, exist_ok=True)
        return {
            profile: _page(profile, [_model(run, results) for run in group], out, known, rules)
            for profile, group in by_profile.items()
        }
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror}") from error


def _model(run: Run, results: Path | None) -> ReportModel:
    from srbench.roofline.stored import read_limits

    return build_model(run, None if results is None else read_limits(results, run.head))


def _page(
    profile: str,
    models: list[ReportModel],
    out: Path,
    known: list[Run | Remembered],
    policy: Policy,
) -> Path:
    from srbench.report.html import render_page
    from srbench.report.markdown import render

    page = out / f"{file_safe(profile)}.md"
    single = len(models) == 1
    sections = []
    for model in models:
        run = model.run
        judgement = _judgement(run, policy)
        stem = file_safe(profile if single else f"{profile}_{run.head.run_id}")
        html = out / f"{stem}.html"
        figures = _figures(model, stem, out)
        document = render_page(
            model, judgement, history([] if run.head.ladder else known, run), _inline(figures, out)
        )
        write_page(html, document)
        heading = "#" if single else "##"
        text = render(model, figures, heading, judgement)
        sections.append(f"{text}\nThe same with image sliders: [{html.name}]({html.name})\n")
    title = "" if single else f"# {models[0].profile.title}: {len(models)} runs\n\n"
    write_page(page, title + "\n".join(sections))
    return page


def write_page(path: Path, text: str) -> None:
    """UTF-8; the reason of a crashed worker may hold a surrogate that no UTF-8 can."""
    path.write_text(text, encoding="utf-8", errors="replace")


def _judgement(run: Run, policy: Policy) -> Judgement | None:
    """The gate's answer without `--against`; None where it has none to give."""
    if run.head.purpose not in _JUDGED:
        return None
    try:
        return judge(run, policy)
    except NotComparableError:
        return None


def _figures(model: ReportModel, stem: str, out: Path) -> dict[str, str]:
    """Draw what the run has data for; figure key -> file name."""
    from srbench.report.crops import crop_figure
    from srbench.report.figures import latency_figure, save, stage_figure

    kinds: tuple[tuple[str, str, Callable[[ReportModel, Comparison], Figure | None]], ...] = (
        ("latency", "svg", latency_figure),
        ("stages", "svg", stage_figure),
        ("crops", "png", crop_figure),
    )
    names = _waterfalls(model, stem, out)
    for comparison in model.comparisons:
        several = len(model.comparisons) > 1
        arm = f"_{file_safe(comparison.candidate)}" if several else ""
        for kind, suffix, draw in kinds:
            if (figure := draw(model, comparison)) is not None:
                name = f"{stem}{arm}_{kind}.{suffix}"
                save(figure, out / name)
                names[f"{kind}:{comparison.candidate}"] = name
    return names


def _waterfalls(model: ReportModel, stem: str, out: Path) -> dict[str, str]:
    """Draw the ladder of each case; nothing for other runs."""
    from srbench.report.figures import save
    from srbench.report.ladder import ladder_cases
    from srbench.report.waterfall import waterfall_figure

    names = {}
    for ladder in ladder_cases(model.run):
        if (figure := waterfall_figure(ladder, model.label)) is not None:
            name = f"{stem}_ladder_{file_safe(ladder.case)}.svg"
            save(figure, out / name)
            names[f"ladder:{ladder.case}"] = name
    return names


def _inline(figures: dict[str, str], out: Path) -> dict[str, str]:
    """Case -> its waterfall as a `data:` URI, since an HTML page holds all it needs."""
    uris = {}
    for key, name in figures.items():
        kind, _, case = key.partition(":")
        if kind == "ladder":
            coded = base64.b64encode((out / name).read_bytes()).decode("ascii")
            uris[case] = f"data:image/svg+xml;base64,{coded}"
    return uris


def file_safe(name: str) -> str:
    """A name of the user's own as a part of a file's name."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
