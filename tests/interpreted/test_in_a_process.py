"""All of this folder in a process that interprets."""

import os
import subprocess
import sys
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import pytest


def triton_version() -> tuple[int, ...]:
    """(major, minor); nothing where there is no Triton."""
    if find_spec("triton") is None:
        return ()
    return tuple(int(part) for part in version("triton").split(".")[:2])


@pytest.mark.skipif(
    triton_version() < (3, 8),
    reason="before Triton 3.8 the interpreter's loops fail with today's NumPy",
)
def test_all_kernels(project_root: Path) -> None:
    folder = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder],
        cwd=project_root,
        env=os.environ | {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
