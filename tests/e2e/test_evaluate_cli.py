"""evaluate as a user types it: whole folders, going on, and candidates against a baseline."""

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
from PIL import Image
from skimage import data

from srbench.fidelity.journal import Journal
from srbench.fidelity.providers import Measurement
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
            Image.fromarray(picture).save(root / folder / f"{index:02d}.png")
    return root


@pytest.fixture
def pictures(painted: Path, tmp_path: Path) -> Path:
    """The same, of which names may be changed and contents may not."""
    for folder in LEVELS:
        (tmp_path / folder).mkdir()
        for path in (painted / folder).iterdir():
            (tmp_path / folder / path.name).symlink_to(path)
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
        (("--metrics", "psrn"), "Did you mean 'psnr'"),
        (("--metrics", "lr_psnr"), "--scale N or --lr-dir DIR"),
        (("--crop",), "--scale N or --lr-dir DIR"),
        (("--scale", "9"), "--scale 9: expected a whole number"),
        (("--lr-dir", "none"), "none: no such folder"),
        (("--csv", "good/00.png"), "good/00.png: the name of a picture"),
        (("--csv", "t", "--markdown", "t"), "t: named twice"),
        (("--against", "broken", "--skip-broken"), "--against broken: 07 judged in only one of"),
        (("--against", "."), ".: no image in it, but in bad; name such a folder"),
        (("--out", "mine"), "mine/results.csv: there already and not of srbench evaluate"),
        (("--out", "notes"), "notes/measurements.jsonl: line 1 is damaged"),
    ],
)
def test_bad_requests_are_one_line_and_exit_2(
    srbench: Srbench, pictures: Path, arguments: tuple[str, ...], said: str
) -> None:
    shutil.copytree(pictures / "good", pictures / "broken", symlinks=True)
    (pictures / "broken/07.png").unlink()
    (pictures / "broken/07.png").touch()
    others = pictures / "mine/results.csv", pictures / "notes/measurements.jsonl"
    for path in others:
        path.parent.mkdir()
        path.write_text("not srbench's")
    done = srbench("evaluate", "good", "hr", "--device", "cpu", *arguments)
    assert done.code == 2
    assert done.out == ""
    assert said in done.err
    assert done.err.count("\n") == 1
    assert [path.read_text() for path in others] == ["not srbench's"] * 2


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


def test_one_json_document(srbench: Srbench, tmp_path: Path) -> None:
    photo = np.clip(data.astronaut()[60:100, 200:232], 9, 240)
    for folder, change in (("sr", 3), ("hr", 0)):
        (tmp_path / folder / "deep").mkdir(parents=True)
        write_image(tmp_path / folder / "a.png", photo + np.uint8(change))
        write_image(tmp_path / folder / "deep/b.png", photo)
    done = srbench(
        "evaluate", "sr", "hr", "--metrics", "psnr_rgb,ssim,vif", "--provider", "torchmetrics",
        "--json", "--csv", "t.csv", "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0
    assert done.err.splitlines()[0] == (
        "sr/deep: a folder beside the pictures; what is in it is not measured"
    )
    document = json.loads(done.out)
    (image,) = document["images"]
    assert image["file"] == "a.png"
    assert image["metrics"]["psnr_rgb"] == pytest.approx(20 * np.log10(255 / 3), abs=1e-3)
    assert image["metrics"]["vif"] is None
    assert list(image["not_measured"]) == ["vif"]
    assert document["mean"] == image["metrics"]
    with (tmp_path / "t.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["ssim"]) == image["metrics"]["ssim"]
    assert row["vif"] == ""


def test_transparent_pictures_are_told_once(
    srbench: Srbench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "sr").mkdir()
    picture = Image.fromarray(np.ascontiguousarray(data.astronaut()[60:100, 200:232]))
    # Opaque: nothing may be logged of it, since a test worker cannot report such a name.
    picture.save(os.fsencode(tmp_path / "sr") + b"/odd\xff\n.png")
    picture.putalpha(99)
    picture.save(tmp_path / "sr" / "clear.png")
    done = srbench(
        "evaluate", "sr", "sr", "--metrics", "psnr,vif", "--provider", "torchmetrics",
        "--against", "sr", "--out", "kept", "--device", "cpu",
    )  # fmt: skip
    assert done.code == 0
    assert caplog.text.count("transparent parts") == 1
    assert done.out.splitlines()[2].split() == ["odd", ".png", "80.0000", "-"]
    assert "vif: not measured: " in done.err
    assert "[2/4] odd .png\n" in done.err
    assert (tmp_path / "kept/results.csv").read_text().splitlines()[2].startswith('"odd?')


def test_samples_are_painted_and_judged(srbench: Srbench, tmp_path: Path) -> None:
    lr = np.ascontiguousarray(data.astronaut()[60:100, 200:232])
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


def test_ctrl_c_keeps_what_is_measured(
    srbench: Srbench, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    enter = Journal.enter

    def press(journal: Journal, key: str, file: str, metric: str, found: Measurement) -> None:
        enter(journal, key, file, metric, found)
        if file == "04.png":
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Journal, "enter", press)
    done = srbench(
        "evaluate", "good", "hr", "--metrics", "psnr_rgb", "--device", "cpu", "--out", "kept"
    )
    assert (done.code, done.out) == (130, "")
    assert done.err.splitlines()[-1] == "srbench: interrupted; the same command goes on"
    assert [path.name for path in (pictures / "kept").iterdir()] == ["measurements.jsonl"]
    assert len((pictures / "kept/measurements.jsonl").read_text().splitlines()) == 6


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
