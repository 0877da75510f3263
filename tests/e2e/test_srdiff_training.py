"""Training by its command: killed at a random moment it loses nothing."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from skimage import data as photographs

from pipelines.pictures import write_png
from pipelines.srdiff.checkpoint import read_tensors

pytestmark = pytest.mark.e2e

STEPS = 16
SAVED = 4
"""Steps from state to state."""
SMALL = ("--config", "mini-x4", "--batch", 2, "--patch", 32, "--ema", 0.9)
OFTEN = ("--log-every", 1, "--save-every", SAVED, "--validate-every", 0, "--sample-every", 0)
LATEST_ROW = 12
"""Of `loss.csv` when the kill comes."""


def started(*words: object) -> subprocess.Popen[str]:
    """One thread: with several, sums on a busy machine are not always made in the same order."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.srdiff.train", *map(str, words)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def rows(out: Path) -> int:
    path = out / "loss.csv"
    return path.read_text().count("\n") - 1 if path.is_file() else 0


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "photographs" / "train"
    folder.mkdir(parents=True)
    write_png(folder / "a.png", np.ascontiguousarray(photographs.astronaut()[:80, 200:300]))
    write_png(folder / "b.png", np.ascontiguousarray(photographs.coffee()[100:172, 200:272]))
    return folder.parent


@pytest.mark.full  # tests/unit/test_srdiff_training.py resumes in its own process
def test_kill_and_resume_is_bit_equal(root: Path, tmp_path: Path) -> None:
    """The loss of every step and the weights at the end are those of an uninterrupted run."""

    def command(out: Path) -> tuple[object, ...]:
        return ("rrdb", "--data", root, "--out", out, "--steps", STEPS, *SMALL, *OFTEN)

    dice = random.Random(os.getpid())
    whole = started(*command(tmp_path / "whole"))
    victim, killed_at = started(*command(tmp_path / "broken")), dice.randint(1, LATEST_ROW)
    while rows(tmp_path / "broken") < killed_at and victim.poll() is None:
        time.sleep(0.002)
    time.sleep(dice.uniform(0, 0.05))
    victim.send_signal(signal.SIGKILL)
    victim.communicate()
    assert victim.returncode == -signal.SIGKILL
    assert not (tmp_path / "broken" / "rrdb.ckpt").exists()

    continued = started(*command(tmp_path / "broken"))
    outputs = [process.communicate(timeout=120) for process in (whole, continued)]
    assert whole.returncode == continued.returncode == 0, outputs
    assert "continued at step" in outputs[1][1] or killed_at <= SAVED
    files = [Path(line) for output, _ in outputs for line in output.splitlines()]
    assert [file.name for file in files] == 2 * ["rrdb.ckpt", "rrdb-ema.ckpt"]
    losses = [(file.parent / "loss.csv").read_bytes() for file in (files[0], files[2])]
    assert losses[0] == losses[1], f"killed at step {killed_at}"
    assert rows(files[0].parent) == STEPS
    for ours, theirs in zip(files[2:], files[:2], strict=True):
        expected = read_tensors(theirs)
        assert all(bool((t == expected[name]).all()) for name, t in read_tensors(ours).items())
    assert not list(files[2].parent.glob(".*.part"))
