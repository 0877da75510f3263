"""Write the report of some runs to a folder: one page a profile, its figures beside it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from srbench.errors import UsageError
from srbench.records import Run
from srbench.report.model import Comparison, ReportModel, build_model

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_report(runs: list[Run], out: Path) -> Path:
    """Write every page and return the last run's.

    Args:
        runs: At least one run; runs of one profile share a page, in the order given.
        out: Folder, created if missing.

    Raises:
        UsageError: No run was given, or the folder cannot be written.
    """
    if not runs:
        raise UsageError("report: no run given; measure one with `srbench run`")
    return write_reports(runs, out)[runs[-1].head.profile]


def write_reports(runs: list[Run], out: Path) -> dict[str, Path]:
    """Write `out/<profile>.md` and figures for each profile; returns profile -> page."""
    by_profile: dict[str, list[Run]] = {}
    for run in runs:
        by_profile.setdefault(run.head.profile, []).append(run)
    try:
        out.mkdir(parents=True, exist_ok=True)
        return {profile: _page(profile, group, out) for profile, group in by_profile.items()}
    except OSError as error:
        raise UsageError(f"--out {out}: cannot be written: {error.strerror}") from error


def _page(profile: str, runs: list[Run], out: Path) -> Path:
    from srbench.report.markdown import render

    page = out / f"{profile}.md"
    single = len(runs) == 1
    sections = []
    for run in runs:
        model = build_model(run)
        stem = profile if single else f"{profile}_{run.head.run_id}"
        sections.append(render(model, _figures(model, stem, out), "#" if single else "##"))
    title = "" if single else f"# {build_model(runs[0]).profile.title}: {len(runs)} runs\n\n"
    page.write_text(title + "\n".join(sections), encoding="utf-8")
    return page


def _figures(model: ReportModel, stem: str, out: Path) -> dict[str, str]:
    """Draw what the run has data for; figure key -> file name."""
    from srbench.report.crops import crop_figure
    from srbench.report.figures import latency_figure, save, stage_figure

    kinds: tuple[tuple[str, str, Callable[[ReportModel, Comparison], Figure | None]], ...] = (
        ("latency", "svg", latency_figure),
        ("stages", "svg", stage_figure),
        ("crops", "png", crop_figure),
    )
    names: dict[str, str] = {}
    for comparison in model.comparisons:
        several = len(model.comparisons) > 1
        arm = f"_{_file_safe(comparison.candidate)}" if several else ""
        for kind, suffix, draw in kinds:
            if (figure := draw(model, comparison)) is not None:
                name = f"{stem}{arm}_{kind}.{suffix}"
                save(figure, out / name)
                names[f"{kind}:{comparison.candidate}"] = name
    return names


def _file_safe(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in name)
