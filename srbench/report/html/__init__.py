"""One self-contained HTML page a run: opens from disk, asks the network for nothing."""

from srbench.report.html.page import render_page

__all__ = ["render_page"]
