"""The vendor engine's published speed-ups beside ours, whatever card was measured."""

from __future__ import annotations

from srbench.profiles import load_profile, profile_names
from srbench.report.html.table import Cell, Table, numeric
from srbench.report.model import Comparison, ReportModel
from srbench.report.text import ratio


def rival_table(model: ReportModel, comparison: Comparison) -> Table | None:
    """Speed-up of each case here, and of lyraDiff on the cards it was published for.

    Both are over the published program in fp16, ours as measured here; None without a case that
    was published, and for any other system than S3Diff.
    """
    if not model.is_s3diff or model.simulated:
        return None
    published = [profile for profile in map(load_profile, profile_names()) if profile.lyradiff_s]
    rows = []
    for row in comparison.rows:
        theirs = [
            profile.original_s[row.case] / profile.lyradiff_s[row.case]
            for profile in published
            if row.case in profile.lyradiff_s
        ]
        if not theirs:
            continue
        ours = row.speedup
        cells = [numeric(None if ours is None else ours.value, ratio(ours))]
        cells += [numeric(value, f"{value:.2f}x") for value in theirs]
        rows.append([Cell(row.case), *cells])
    if not rows:
        return None
    return Table(
        caption=f"Speed-up beside lyraDiff's published ones, {model.label}",
        header=[
            "Case",
            f"{comparison.candidate}, here",
            *(f"lyraDiff, {profile.title}" for profile in published),
        ],
        words=1,
        rows=rows,
        notes=["Published ones were measured by others, on other machines."],
    )
