"""evaluate as a user types it: whole folders, going on, and candidates against a baseline."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from srbench.images import read_image, write_image
from tests.e2e.conftest import Srbench

pytestmark = pytest.mark.e2e

LEVELS = {"hr": 0, "base": 6, "good": 5, "bad": 12}


@pytest.fixture(scope="module")
def painted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """22 pictures in folders of more or less noise."""
    root = tmp_path_factory.mktemp("painted")
    for folder, levels in LEVELS.items():
        (root / folder).mkdir()
        for index in range(22):
            rng = np.random.default_rng(index)
            photo = data.astronaut()[8 * index :, 60:][:32, :32].astype(int)
            noisy = photo + rng.integers(-levels, levels + 1, photo.shape)
            picture = noisy.clip(0, 255).astype(np.uint8)
            write_image(root / folder / f"{index:02d}.png", picture)
    return root


@pytest.fixture
def pictures(painted: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    shutil.copytree(painted, tmp_path, dirs_exist_ok=True)
    return tmp_path


def test_a_folder_of_results_is_kept_and_goes_on(srbench: Srbench, pictures: Path) -> None:
    command = (
        "evaluate", "good", "hr", "--metrics", "psnr_rgb,ssim_skimage,musiq", "--device", "cpu",
        "--out", "kept", "--markdown", "pages/page.md", "--json",
    )  # fmt: skip
    done = srbench(*command)
    assert done.code == 0
    progress = [line for line in done.err.splitlines() if line.startswith("[")]
    assert len(progress) == 11  # a line every two
    assert progress[-1] == "[22/22] 21.png"
    document = json.loads(done.out)
    assert "`hf download " in document["images"][0]["not_measured"]["musiq"]
    assert json.loads((pictures / "kept/results.json").read_text()) == document
    with (pictures / "kept/results.csv").open() as file:
        rows = list(csv.DictReader(file))
    values = [image["metrics"]["psnr_rgb"] for image in document["images"]]
    assert [float(row["psnr_rgb"]) for row in rows] == values
    assert document["mean"]["psnr_rgb"] == pytest.approx(sum(values) / 22)
    page = (pictures / "pages/page.md").read_text()
    assert page == (pictures / "kept/results.md").read_text()
    assert f"| 00.png | {values[0]:.4f} |" in page
    assert "paired by stem; the published program pairs by sorted position" in page
    journal = pictures / "kept/measurements.jsonl"
    whole = journal.read_bytes()
    journal.write_bytes(whole[: len(whole) // 2])
    again = srbench(*command)
    assert json.loads(again.out) == document
    assert sorted(journal.read_bytes().splitlines()) == sorted(whole.splitlines())


@pytest.mark.parametrize(
    ("candidate", "count", "margins", "code", "word"),
    [
        ("good", 22, (), 0, "PASS"),
        ("base", 2, (), 0, "PASS"),
        ("bad", 22, (), 1, "FAIL"),
        ("bad", 22, ("--margin", "psnr=9"), 0, "PASS"),
        ("bad", 1, (), 3, "INCONCLUSIVE"),
    ],
)
def test_a_candidate_is_judged_against_a_baseline(
    srbench: Srbench,
    pictures: Path,
    candidate: str,
    count: int,
    margins: tuple[str, ...],
    code: int,
    word: str,
) -> None:
    for folder in LEVELS:
        for path in sorted((pictures / folder).iterdir())[count:]:
            path.unlink()
    command = (
        "evaluate", candidate, "hr", "--against", "base", "--metrics", "psnr,ssim", *margins,
        "--device", "cpu",
    )  # fmt: skip
    done = srbench(*command)
    assert done.code == code
    assert done.out.splitlines()[-1].startswith(f"{word} against base: psnr ")
    assert (f"srbench evaluate: {word} against base: " in done.err) == (code != 0)
    document = json.loads(srbench(*command, "--json").out)["comparison"]
    assert document["verdict"] == word.lower()
    judged = document["metrics"]["psnr"]
    assert len(judged["deltas"]) == count
    assert judged["mean_delta"] == pytest.approx(sum(judged["deltas"].values()) / count)
    assert document["metrics"]["ssim"]["verdict"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--margin", "psnr=0.1"), "--margin: only with --against"),
        (("--against", "base", "--margin", "psnr=abc"), "expected a number from 0"),
        (("--against", "base", "--margin", "dists=0.1"), "--metrics"),
        (("--against", "nowhere"), "nowhere: no such folder"),
        (("--against", "base", "--metrics", "ssim"), "no metric to judge by"),
        (("--out", "hr/00.png"), "hr/00.png/measurements.jsonl: cannot write"),
        (("--markdown", "hr"), "hr: is a folder; name a file"),
        (("--csv", "hr/00.png/t.csv"), "hr/00.png: cannot write there"),
        (("--provider", "torchmetric"), "Did you mean 'torchmetrics'"),
    ],
)
def test_bad_requests_are_one_line_and_exit_2(
    srbench: Srbench, pictures: Path, arguments: tuple[str, ...], said: str
) -> None:
    done = srbench("evaluate", "good", "hr", "--device", "cpu", *arguments)
    assert done.code == 2
    assert done.out == ""
    assert said in done.err
    assert done.err.count("\n") == 1


def test_pictures_that_do_not_fit_are_named(srbench: Srbench, pictures: Path) -> None:
    (pictures / "hr/07.png").rename(pictures / "hr/x07.png")
    assert "hr: no picture for 07.png" in srbench("evaluate", "good", "hr").err
    shutil.copy(pictures / "hr/x07.png", pictures / "hr/07.png")
    (pictures / "hr/x07.png").unlink()
    write_image(pictures / "hr/07.png", read_image(pictures / "hr/07.png")[:-2])
    assert "good/07.png: 32x32 pixels where hr/07.png has 32x30" in srbench(
        "evaluate", "good", "hr"
    ).err  # fmt: skip
    (pictures / "hr/07.png").write_bytes(b"no picture")
    done = srbench("evaluate", "good", "hr")
    assert done.code == 2
    assert "hr/07.png" in done.err
    assert "--skip-broken" in done.err


def test_the_published_protocol_hands_errors_on(tmp_path: Path, project_root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.s3diff.evaluate", str(tmp_path / "none"), str(tmp_path)],
        cwd=project_root,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == f"srbench: {tmp_path / 'none'}: no such folder\n"
