"""Settings of the whole suite."""

import os
from pathlib import Path

import pytest

# Two workers and their children on two cores: threads that spin while they wait starve each other.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_configure() -> None:
    """One thread a worker; children, which measure or reproduce numbers, decide for themselves."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        import torch

        torch.set_num_threads(1)


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
