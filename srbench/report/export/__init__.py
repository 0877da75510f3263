"""Runs in the formats of other programs: tidy frames, CSV, Parquet, JSON, pytest-benchmark."""

from srbench.report.export.benchmark import benchmark_document
from srbench.report.export.files import BINARY, FORMATS, Format, export_pieces
from srbench.report.export.frame import frame

__all__ = [
    "BINARY",
    "FORMATS",
    "Format",
    "benchmark_document",
    "export_pieces",
    "frame",
]
