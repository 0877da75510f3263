"""Pages for people: a run becomes tables, figures and a verdict in the formats CI systems read."""

from srbench.report.pages import write_report, write_reports

__all__ = ["write_report", "write_reports"]
