"""Triton's kernels in its interpreter, in one process for all of them.

Triton decides at its import whether it interprets. `TRITON_INTERPRET=1 pytest tests/interpreted`
runs them; otherwise only the test that starts such a process is collected.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
STARTER = "test_in_a_process.py"
collect_ignore = [
    path.name
    for path in Path(__file__).parent.glob("test_*.py")
    if (path.name == STARTER) is INTERPRETED
]


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    """New tensors hold NaN or the largest integer: what a kernel leaves out shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
