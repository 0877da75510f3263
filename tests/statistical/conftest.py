"""The measured rates, shown after the run: a proof is worth more with its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

Note = Callable[[Mapping[str, float]], None]
_NOTES = pytest.StashKey[list[str]]()


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Keep shares of runs, by word, for the summary."""
    lines = request.config.stash.setdefault(_NOTES, [])

    def add(rates: Mapping[str, float]) -> None:
        shown = ", ".join(f"{word} {100 * rate:.2f} %" for word, rate in rates.items())
        lines.append(f"{request.node.name}: {shown}")

    return add


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if lines := config.stash.get(_NOTES, []):
        terminalreporter.section("rates over simulated runs")
        for line in lines:
            terminalreporter.write_line(line)
