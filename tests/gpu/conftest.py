"""Weights of the tests on a card."""

import pytest

from pipelines.contract import WeightsSource
from pipelines.s3diff.weight_sources import resolve_weights
from srbench import systems


@pytest.fixture(scope="session")
def weights() -> WeightsSource:
    """The small seeded model."""
    return resolve_weights("mini", "cuda")


@pytest.fixture(scope="session")
def full_weights() -> WeightsSource:
    """The full-size seeded model; 3.5 GB are written at the first time."""
    return resolve_weights("synthetic", "cuda")


@pytest.fixture(scope="session")
def srdiff_weights() -> WeightsSource:
    """The small trained SRDiff."""
    return systems.resolve_weights(["srdiff-optimized"], "mini", "cuda")
