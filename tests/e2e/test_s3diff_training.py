"""Training of S3Diff by its command: killed at a random moment it loses nothing."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import socket
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from skimage import data as photographs

from pipelines.pictures import write_png
from pipelines.s3diff.recipe import Ends, Recipe
from pipelines.s3diff.synthesize import synthesize
from pipelines.s3diff.weights import check_folder
from pipelines.stable_diffusion.checkpoint_files import read_pickle
from tests.tiny_s3diff import few_adapters

pytestmark = pytest.mark.e2e

STEPS = 6
SAVED = 2
"""Steps from state to state."""
LATEST_ROW = 4
"""Of `loss.csv` when the kill comes."""


def run_command(words: tuple[str, ...], said: Path, environment: dict[str, str]) -> None:
    """The command in a process of its own; what it says goes into a file."""
    os.environ.update(environment)
    with said.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["train", *words]
    from pipelines.s3diff.train.__main__ import main

    main()


def started(said: Path, *words: object, **environment: object) -> BaseProcess:
    """From a server that has imported what is slow to import; of one thread, for equal sums."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pipelines.s3diff.train.run"])
    variables = {name: str(value) for name, value in environment.items()}
    process = context.Process(target=run_command, args=(tuple(map(str, words)), said, variables))
    process.start()
    return process


def rows(out: Path) -> int:
    path = out / "loss.csv"
    return path.read_text().count("\n") - 1 if path.is_file() else 0


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    synthesize(tmp_path / "start", Recipe("small", 0, few_adapters(), Ends.neutral()))
    return tmp_path / "start"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    write_png(folder / "a.png", np.ascontiguousarray(photographs.astronaut()[:80, 200:300]))
    write_png(folder / "b.png", np.ascontiguousarray(photographs.coffee()[100:172, 200:272]))
    return folder


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def command(
    photos: Path, weights: Path, out: Path, steps: int, *changes: str
) -> tuple[object, ...]:
    small = ("data.min_area_px=0", "loss.lpips=0", "run.batch=2", "run.look_every=0")
    small = (*small, "lora.rank_unet=4", "lora.rank_vae=4", "discriminator.width=8")
    chosen = [word for change in (*small, *changes) for word in ("--set", change)]
    paths = ("--data", photos, "--weights", weights, "--out", out)
    return ("--recipe", "mini", *paths, "--steps", steps, *chosen)


@pytest.mark.full
def test_kill_and_resume_is_bit_equal(weights: Path, photos: Path, tmp_path: Path) -> None:
    """The losses of every step and the checkpoint are those of an uninterrupted run."""
    often = ("run.accumulate=2", "run.log_every=1", f"run.save_every={SAVED}")
    dice = random.Random(os.getpid())
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    said = [tmp_path / f"{name}.txt" for name in ("whole", "killed", "continued")]
    first = started(said[0], *command(photos, weights, whole, STEPS, *often))
    victim, killed_at = (
        started(said[1], *command(photos, weights, broken, STEPS, *often)),
        dice.randint(1, LATEST_ROW),
    )
    while rows(broken) < killed_at and victim.is_alive():
        time.sleep(0.002)
    time.sleep(dice.uniform(0, 0.1))
    victim.kill()
    victim.join()
    assert victim.exitcode == -signal.SIGKILL, said[1].read_text()
    assert not (broken / "weights" / "s3diff.pkl").exists()

    continued = started(said[2], *command(photos, weights, broken, STEPS, *often))
    for process, words in ((first, said[0]), (continued, said[2])):
        process.join(120)
        assert process.exitcode == 0, words.read_text()
    assert "continued at step" in said[2].read_text() or killed_at <= SAVED
    assert said[2].read_text().endswith(f"{broken}/weights/s3diff.pkl\n")
    losses = [(out / "loss.csv").read_bytes() for out in (whole, broken)]
    assert losses[0] == losses[1], f"killed at step {killed_at}"
    assert rows(whole) == STEPS
    pickles = [out / "weights" / "s3diff.pkl" for out in (whole, broken)]
    assert pickles[0].read_bytes() == pickles[1].read_bytes()
    assert check_folder(broken / "weights") == []
    assert not list(broken.rglob(".*.part"))


@pytest.mark.full
def test_two_processes_make_the_updates_of_one(weights: Path, photos: Path, tmp_path: Path) -> None:
    """The same samples, in two parts of one process or one part of each of two."""
    calm = ("loss.gan=0", "optimizer.generator.lr=5e-4", "optimizer.generator.eps=1e-3")
    one, two = tmp_path / "one", tmp_path / "two"
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    said = [tmp_path / f"{name}.txt" for name in ("alone", "first", "second")]
    processes = [
        started(said[0], *command(photos, weights, one, 2, *calm, "run.accumulate=2")),
        *(
            started(
                said[1 + rank],
                *command(photos, weights, two, 2, *calm, "run.accumulate=1"),
                **{"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port},
                **{"MASTER_ADDR": "127.0.0.1", "ACCELERATE_USE_CPU": "true"},
            )
            for rank in range(2)
        ),
    ]
    for process, words in zip(processes, said, strict=True):
        process.join(120)
        assert process.exitcode == 0, words.read_text()
    found, wanted = (
        read_pickle(out / "weights" / "s3diff.pkl")["state_dict_unet"] for out in (two, one)
    )
    assert all(
        bool(np.allclose(tensor, wanted[name], rtol=0, atol=1e-6)) for name, tensor in found.items()
    )
    start = read_pickle(weights / "s3diff.pkl")["state_dict_unet"]
    moved = max(float((tensor - start[name]).abs().max()) for name, tensor in found.items())
    assert moved > 1e-5
    assert "step 2/2" not in said[2].read_text()  # only the main process speaks
