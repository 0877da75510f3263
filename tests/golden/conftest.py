from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def golden_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of small weights behind the golden outputs."""
    from tests.golden.recipe import write_golden_weights

    return write_golden_weights(tmp_path_factory.mktemp("golden") / "weights")
