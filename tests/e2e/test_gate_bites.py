"""The real pipelines, a real promoted run, and planted regressions that need no clock to be seen.

The planted slow-down is judged in simulation (tests/statistical) and by hand: a timed test would be
a coin toss on a busy machine.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.e2e
CASE = "24x24x4"


def srbench(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "srbench", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        command, cwd=root, env=environment, text=True, capture_output=True, check=False
    )


def measure(root: Path, out: Path, candidate: str) -> str:
    before = set((out / "cpu").glob("*.jsonl"))
    done = srbench(
        root,
        "run",
        *("--pipelines", f"s3diff-baseline,{candidate}", "--cases", CASE),
        *("--blocks", "1", "--pairs", "1", "--weights", "mini", "--out", str(out)),
    )
    assert done.returncode == 0, done.stderr
    (run,) = set((out / "cpu").glob("*.jsonl")) - before
    return str(run)


@pytest.fixture(scope="module")
def out(project_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with `main` promoted from an untouched run."""
    out = tmp_path_factory.mktemp("gate") / "results"
    run = measure(project_root, out, "s3diff-optimized")
    promoted = srbench(project_root, "baseline", "promote", run, "--results", str(out))
    assert promoted.returncode == 0, promoted.stderr
    return out


def gate(root: Path, out: Path, run: str) -> subprocess.CompletedProcess[str]:
    return srbench(root, "gate", run, "--against", "main", "--results", str(out))


@pytest.mark.parametrize(
    ("plant", "named"),
    [
        ("BadTile", "worst 64x64 block"),
        pytest.param("Hungry", "peak_tensor_bytes", marks=pytest.mark.full),
    ],
)
@pytest.mark.full
def test_a_planted_regression_fails_and_is_named(
    project_root: Path, out: Path, plant: str, named: str
) -> None:
    judged = gate(project_root, out, measure(project_root, out, f"tests.plants:{plant}"))
    assert judged.returncode == 1
    lines = [line for line in judged.stderr.splitlines() if "FAIL" in line]
    assert len(lines) == 1
    assert named in lines[0]
    assert f"{CASE}" in lines[0]
