"""upscale and weights as a user types them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data

from srbench.images import read_image, write_image
from srbench.upscaling import check_options
from tests.e2e.conftest import Srbench
from tests.fixtures_pipelines import Bicubic

pytestmark = pytest.mark.e2e


FIXES = (None, "wavelet", "none")
UPSCALE = ("--pipeline", "s3diff-baseline", "--scale", "2", "--device", "cpu")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _caches(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same srbench cache in every test, an empty hub cache in each."""
    monkeypatch.setenv("SRBENCH_CACHE", str(cache))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    write_image(tmp_path / "photo.png", np.ascontiguousarray(data.astronaut()[60:100, 200:232]))
    return tmp_path / "photo.png"


def test_seed_and_options_change_the_picture(srbench: Srbench, photo: Path, tmp_path: Path) -> None:
    done = srbench("upscale", photo, "default.png", *UPSCALE)
    assert (done.code, done.out) == (0, "default.png\n")
    assert "synthetic" not in done.err
    default = read_image(tmp_path / "default.png")
    assert default.shape == (80, 64, 3)
    for options in ("--seed", 1), ("--set", "s3diff-baseline.guidance=1.5"):
        assert srbench("upscale", photo, "other.png", *UPSCALE, *options).code == 0
        assert not np.array_equal(default, read_image(tmp_path / "other.png"))
    plain, named, other = (check_options("s3diff-baseline", [], fix) for fix in FIXES)
    assert plain == named != other
    assert check_options("s3diff-baseline", ["color_fix=none"], None) == other


class Interrupting(Bicubic):
    """Whoever waits for it presses Ctrl-C while it paints its first picture."""

    def upscale(self, image: np.ndarray, scale: int, *, seed: int) -> np.ndarray:
        os.kill(os.getpid(), signal.SIGINT)
        return super().upscale(image, scale, seed=seed)


BATCH = ("--scale", "2", "--device", "cpu", "--pipeline")


def names_in(out: str) -> list[str]:
    """Written files; the fixture pipelines chatter beside them."""
    return [line for line in out.splitlines() if line.startswith("out/")]


def test_a_folder_keeps_names_and_goes_on(srbench: Srbench, photo: Path, tmp_path: Path) -> None:
    for name in ("b.png", "a.bmp", "sub/c.png"):
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        write_image(tmp_path / "in" / name, read_image(photo))
    (tmp_path / "in/notes.txt").touch()
    done = srbench("upscale", "in", "out/deep", *BATCH, "tests.e2e.test_images_cli:Interrupting")
    assert done.code == 130
    assert names_in(done.out) == ["out/deep/a.bmp"]
    assert "finishing the current picture" in done.err
    assert done.err.splitlines()[-1] == (
        "srbench: interrupted after 1 of 3 inputs; the same command goes on"
    )
    (tmp_path / "in/b.png").write_bytes(photo.read_bytes()[:-99])
    bicubic = (*BATCH, "tests.fixtures_pipelines:Bicubic")
    done = srbench("upscale", "in", "out/deep", *bicubic, "--seed", "1")
    assert done.code == 4
    assert names_in(done.out) == ["out/deep/a.bmp", "out/deep/sub/c.png"]
    *_, account, failed, last = done.err.splitlines()
    assert account.startswith("3 inputs: 2 written, 1 failed; 1 other file left alone; ")
    assert failed.startswith("failed: in/b.png: truncated")
    assert last.startswith("srbench: 1 of 3 inputs failed; in/b.png: truncated")
    shutil.copy(photo, tmp_path / "in/b.png")
    done = srbench("upscale", "in", "out/deep", *bicubic, "--seed", "1", "--json")
    assert done.code == 0
    document = json.loads(done.out[done.out.index("{") :])
    assert [(i["file"], i["outcome"]) for i in document["images"]] == [
        ("in/a.bmp", "skipped"), ("in/b.png", "written"), ("in/sub/c.png", "skipped"),
    ]  # fmt: skip
    assert {p.name for p in (tmp_path / "out/deep").iterdir()} == {
        "a.bmp", "b.png", "sub", ".srbench-upscale.jsonl",
    }  # fmt: skip


def test_folders_that_cannot_be_upscaled_are_exit_2(
    srbench: Srbench, photo: Path, tmp_path: Path
) -> None:
    bicubic = (*BATCH, "tests.fixtures_pipelines:Bicubic")
    for folder in ("bad", "in", "out"):
        (tmp_path / folder).mkdir()
    for name in ("a.png", "b.png"):
        (tmp_path / "bad" / name).write_bytes(photo.read_bytes()[:-99])
    done = srbench("upscale", "bad", "out", *bicubic)
    assert done.code == 2
    assert names_in(done.out) == []
    assert done.err.splitlines()[-1].startswith(
        "srbench: none of 2 inputs can be upscaled; bad/a.png: truncated"
    )
    for folder in ("in", "out"):
        shutil.copy(photo, tmp_path / folder)
    done = srbench("upscale", "in", "out", *bicubic)
    assert (done.code, done.out) == (2, "")
    assert done.err == (
        "srbench: out/photo.png: there already and not made by srbench upscale here; name another "
        "output, or --overwrite\n"
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("photo.png", "o.png", "--pipeline", "s3diff-basline", "--scale", 4), "'s3diff-baseline'"),
        (("photo.png", "o.png", "--pipeline", "s3diff-baseline", "--scale", 9), "from 1 to 8"),
        (("photo.png", "o.png", *UPSCALE, "--set", "latent_tlie=3"), "'latent_tile'"),
        (("photo.png", "o.png", *UPSCALE, "--set", "latent_tile"), "expected key=value"),
        (("photo.png", "o.png", *UPSCALE, "--color-fix", "sepia"), "wavelet"),
        (("photo.png", "o.png", *UPSCALE, "--precision", "int8"), "fp32 or fp16"),
        (("photo.png", "o.xyz", *UPSCALE), "use .png"),
        (("photo.png", "photo.png", *UPSCALE), "photo.png would replace an input"),
        (("photo.png", ".", *UPSCALE), "photo.png would replace an input"),
        (("none.png", "o.png", *UPSCALE), "no such file"),
        (("photo.png", "photo.png/o.png", *UPSCALE), "cannot be written"),
        (("photo.png", "o.png", *UPSCALE, "--weights", "nowhere"), "no such weights folder"),
        (("photo.png", "o.png", *UPSCALE[:-1], "tpu"), "cpu, cuda or auto"),
    ],
)
def test_bad_requests_are_one_line_and_exit_2(
    srbench: Srbench, photo: Path, arguments: tuple[object, ...], said: str
) -> None:
    done = srbench("upscale", *arguments)
    assert done.code == 2
    assert done.out == ""
    assert said in done.err
    assert done.err.startswith("srbench: ")
    assert done.err.count("\n") == 1


def test_images_that_are_too_small(srbench: Srbench, photo: Path, tmp_path: Path) -> None:
    write_image(tmp_path / "tiny.png", read_image(photo)[:15])
    done = srbench("upscale", "tiny.png", "o.png", *UPSCALE)
    assert done.code == 2
    assert "32x15 pixels; sides must be at least 16" in done.err


def test_an_image_larger_than_memory_is_exit_4_with_the_estimate(
    srbench: Srbench, tmp_path: Path
) -> None:
    Image.new("L", (5000, 5000)).save(tmp_path / "vast.png")
    done = srbench("upscale", "vast.png", "o.png", *UPSCALE[:2], "--scale", 8, "--device", "cpu")
    assert done.code == 4
    assert "needs about" in done.err.splitlines()[-1]
    assert "GiB are free on cpu" in done.err


def test_a_bad_checkpoint_is_one_line(srbench: Srbench, photo: Path, tmp_path: Path) -> None:
    assert srbench("weights", "synthesize", "--out", "mine", "--size", "small").code == 0
    torch.save({"model": 1}, tmp_path / "mine" / "s3diff.pkl")
    done = srbench("upscale", photo, "o.png", *UPSCALE, "--weights", "mine")
    assert done.code == 2
    assert "another model" in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "o.png").exists()


def test_weights_check_lists_every_problem(srbench: Srbench, tmp_path: Path) -> None:
    assert srbench("weights", "synthesize", "--out", "mine", "--size", "small").code == 0
    done = srbench("weights", "check", "mine")
    assert done.code == 0
    assert len(done.out.splitlines()) == 10
    assert all(len(line.split()[0]) == 64 for line in done.out.splitlines())
    (tmp_path / "mine/de_net.pth").unlink()
    (tmp_path / "mine/s3diff.pkl").write_bytes(b"")
    done = srbench("weights", "check", "mine")
    assert done.code == 2
    assert len(done.out.splitlines()) == 2
    assert done.err == "srbench: mine: 2 problems, listed above\n"


def test_synthesize_does_not_overwrite(srbench: Srbench, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/file").write_text("")
    done = srbench("weights", "synthesize", "--out", "mine", "--size", "small")
    assert done.code == 2
    assert "exists already" in done.err
    assert srbench("weights", "synthesize", "--out", "x", "--size", "huge").code == 2


def test_fetch_without_a_network_is_one_line_and_exit_4(project_root: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    environment.pop("HF_HUB_CACHE", None)
    done = subprocess.run(
        [sys.executable, "-m", "srbench", "weights", "fetch"],
        cwd=project_root,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 4
    assert done.stdout == ""
    assert done.stderr.startswith("srbench: zhangap/S3Diff cannot be downloaded")
    assert done.stderr.count("\n") == 1
