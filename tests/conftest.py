"""Settings of the whole suite."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _settings_of_the_tests_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own environment must not decide what a test sees."""
    for name in list(os.environ):
        if name.startswith("SRBENCH_") and name != "SRBENCH_CACHE":
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The folder of the checkout."""
    return Path(__file__).resolve().parents[1]
