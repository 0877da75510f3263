"""upscale, evaluate and weights as a user types them."""

from __future__ import annotations

import csv
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
from skimage import data

from srbench.images import read_image, write_image
from tests.e2e.conftest import Srbench
from tests.fixtures_pipelines import Bicubic

pytestmark = pytest.mark.e2e


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


def test_one_image(srbench: Srbench, photo: Path, tmp_path: Path) -> None:
    done = srbench("upscale", photo, "big.png", *UPSCALE)
    assert done.code == 0
    assert done.out == "big.png\n"
    assert "synthetic" not in done.err
    assert read_image(tmp_path / "big.png").shape == (80, 64, 3)


def test_seed_and_options_change_the_picture(srbench: Srbench, photo: Path, tmp_path: Path) -> None:
    runs = {
        "default": (),
        "again": ("--seed", 0, "--color-fix", "wavelet", "--precision", "fp32"),
        "seed": ("--seed", 1),
        "fix": ("--color-fix", "none"),
        "set": ("--set", "color_fix=none"),
        "own": ("--set", "s3diff-baseline.guidance=1.5"),
    }
    pictures = {}
    for name, options in runs.items():
        assert srbench("upscale", photo, f"{name}.png", *UPSCALE, *options).code == 0
        pictures[name] = read_image(tmp_path / f"{name}.png")
    assert np.array_equal(pictures["default"], pictures["again"])
    assert np.array_equal(pictures["fix"], pictures["set"])
    for other in ("seed", "fix", "own"):
        assert not np.array_equal(pictures["default"], pictures[other])


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
    write_image(tmp_path / "vast.png", np.tile(data.astronaut(), (12, 12, 1)))
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


def test_evaluate_prints_one_json_document(srbench: Srbench, photo: Path, tmp_path: Path) -> None:
    for folder, change in (("sr", 3), ("hr", 0)):
        (tmp_path / folder).mkdir()
        write_image(
            tmp_path / folder / "a.png", np.clip(read_image(photo), 9, 240) + np.uint8(change)
        )
    done = srbench(
        "evaluate", "sr", "hr", "--metrics", "psnr_rgb,ssim", "--json", "--csv", "t.csv",
        "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0
    document = json.loads(done.out)
    (image,) = document["images"]
    assert image["file"] == "a.png"
    assert image["metrics"]["psnr_rgb"] == pytest.approx(20 * np.log10(255 / 3), abs=1e-3)
    assert image["not_measured"] == {}
    assert document["mean"] == image["metrics"]
    with (tmp_path / "t.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["ssim"]) == image["metrics"]["ssim"]


def test_evaluate_shows_a_table_and_reasons(srbench: Srbench, photo: Path, tmp_path: Path) -> None:
    for folder in ("sr", "hr"):
        (tmp_path / folder).mkdir()
        shutil.copy(photo, tmp_path / folder)
    done = srbench(
        "evaluate", "sr", "hr", "--metrics", "psnr,vif", "--provider", "torchmetrics",
        "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0
    assert done.out.splitlines()[1].split() == ["photo.png", "80.0000", "-"]
    assert "vif: not measured: " in done.err


def test_samples_are_painted_and_judged(srbench: Srbench, photo: Path, tmp_path: Path) -> None:
    lr = read_image(photo)
    for folder, picture in (("lr", lr), ("hr", lr.repeat(2, axis=0).repeat(2, axis=1))):
        (tmp_path / folder).mkdir()
        for name in ("a.png", "b.png"):
            write_image(tmp_path / folder / name, picture)
    bicubic = ("--pipeline", "tests.fixtures_pipelines:Bicubic", "--scale", 2, "--device", "cpu")
    done = srbench("upscale", "lr", "sr", *bicubic, "--samples", 3, "--seed", 4)
    assert done.code == 0
    names = [f"sr/sample-000{number}/{name}.png" for name in "ab" for number in range(3)]
    assert [line for line in done.out.splitlines() if line.startswith("sr/")] == names
    broken = tmp_path / "sr/sample-0001/b.png"
    broken.write_bytes(broken.read_bytes()[:-100])
    judge = (
        "evaluate", "sr", "hr", "--metrics", "psnr_rgb,ssim_skimage,lr_psnr,diversity",
        "--lr-dir", "lr", "--device", "cpu",
    )  # fmt: skip
    done = srbench(*judge)
    assert done.code == 2
    assert done.out == ""
    assert "sr/sample-0001/b.png: truncated" in done.err
    done = srbench(*judge, "--skip-broken")
    assert done.code == 0
    header, row, mean, *definitions = done.out.splitlines()
    assert header.split() == ["psnr_rgb", "ssim_skimage", "lr_psnr", "diversity"]
    pictures = np.stack([read_image(tmp_path / f"sr/sample-000{n}/a.png") for n in range(3)])
    spread = pictures.std(axis=0).mean()
    assert spread > 0
    assert row.split()[0] == "a.png"
    assert float(row.split()[-1]) == pytest.approx(spread, abs=1e-4)
    assert mean.split()[1:] == row.split()[1:]
    assert any(line.startswith("lr_psnr: srbench ") for line in definitions)
    assert definitions[-2].startswith("samples: 3 ")
    assert definitions[-1].startswith("skipped: 1 ")
    assert "skipped: b.png: sr/sample-0001/b.png: truncated" in done.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--metrics", "lr_psnr"), "--scale N or --lr-dir DIR"),
        (("--crop",), "--scale N or --lr-dir DIR"),
        (("--scale", 9), "--scale 9: expected a whole number"),
        (("--lr-dir", "none"), "none: no such folder"),
    ],
)
def test_evaluations_that_cannot_be_are_one_line(
    srbench: Srbench, photo: Path, tmp_path: Path, arguments: tuple[object, ...], said: str
) -> None:
    (tmp_path / "sr").mkdir()
    shutil.copy(photo, tmp_path / "sr")
    done = srbench("evaluate", "sr", "sr", *arguments)
    assert done.code == 2
    assert done.out == ""
    assert said in done.err
    assert done.err.count("\n") == 1


def test_evaluate_refuses_unknown_metrics(srbench: Srbench) -> None:
    done = srbench("evaluate", "sr", "hr", "--metrics", "psrn")
    assert done.code == 2
    assert "Did you mean 'psnr'" in done.err


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
