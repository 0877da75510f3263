"""The measured rates, shown after the run: a proof is worth more with its numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

Note = Callable[[Mapping[str, float]], None]
RATES = "rates over simulated runs"


@pytest.fixture
def note(request: pytest.FixtureRequest) -> Note:
    """Keep shares of runs, by word, for the summary.

    As a property of the test: that much comes back from a process that ran it beside others.
    """

    def add(rates: Mapping[str, float]) -> None:
        shown = ", ".join(f"{word} {100 * rate:.2f} %" for word, rate in rates.items())
        request.node.user_properties.append((RATES, f"{request.node.name}: {shown}"))

    return add


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ended = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    lines = [
        line
        for report in ended
        if report.when == "call"
        for name, line in report.user_properties
        if name == RATES
    ]
    if lines:
        terminalreporter.section(RATES)
        for line in lines:
            terminalreporter.write_line(str(line))
