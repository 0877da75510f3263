"""The harness held against itself: the same pipeline in both arms, where every effect is noise."""

from srbench.aa.analysis import analyse, noise_file
from srbench.aa.result import AaResult, AaRow, FalseAlarms, Planted
from srbench.aa.tables import aa_markdown, aa_table

__all__ = [
    "AaResult",
    "AaRow",
    "FalseAlarms",
    "Planted",
    "aa_markdown",
    "aa_table",
    "analyse",
    "noise_file",
]
