"""SRDiff on the command line: upscale, run, ladder, weights, and what is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from skimage import data

from pipelines.srdiff.checkpoint import write_checkpoint
from pipelines.srdiff.config import Config
from srbench.images import read_image, write_image
from srbench.store import list_runs, read_run
from tests.e2e.conftest import Srbench
from tests.e2e.test_run import weights_folder
from tests.golden.srdiff_recipe import golden_tensors

pytestmark = pytest.mark.e2e
SMALL = Config(hidden_size=8, dim_mults=(1, 2, 2, 4), rrdb_features=8, rrdb_blocks=2, timesteps=4)
"""Four steps an image instead of a hundred; no quicker one has all parts."""
WORDS = "SRDiff x4: hidden_size 8, dim_mults 1 2 2 4, 2 RRDB blocks of 8, 4 steps (cosine), "
BOTH = ("--pipelines", "srdiff-baseline,srdiff-optimized", "--gpu", "cpu")
UPSCALE = ("--pipeline", "srdiff-optimized", "--device", "cpu", "--scale")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the authors release theirs."""
    folder = tmp_path_factory.mktemp("released")
    write_checkpoint(folder / "model_ckpt_steps_90.ckpt", {}, step=90)
    write_checkpoint(folder / "model_ckpt_steps_400.ckpt", golden_tensors(SMALL), step=400)
    return folder


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    write_image(tmp_path / "photo.png", np.ascontiguousarray(data.astronaut()[60:79, 200:217]))
    return tmp_path / "photo.png"


def test_samples_of_a_photograph_by_the_small_trained_model(
    srbench: Srbench, photo: Path, tmp_path: Path
) -> None:
    done = srbench("upscale", photo, "sr", *UPSCALE, 4, "--samples", 2, "--seed", 7)
    assert done.code == 0, done.err
    names = ["sr/sample-0000/photo.png", "sr/sample-0001/photo.png"]
    assert done.out.splitlines() == names
    assert "synthetic" not in done.err
    pictures = [read_image(tmp_path / name).astype(float) for name in names]
    assert all(picture.shape == (76, 68, 3) for picture in pictures)
    assert not np.array_equal(*pictures)
    for picture in pictures:
        shrunk = picture.reshape(19, 4, 17, 4, 3).mean(axis=(1, 3))
        assert np.abs(shrunk - read_image(photo)).mean() < 8


@pytest.mark.full  # tests/e2e/test_run.py goes the same way with another system
def test_a_run_its_report_and_its_gate(srbench: Srbench, small: Path, tmp_path: Path) -> None:
    design = ("--cases", "16x16x4", "--blocks", 1, "--pairs", 1, "--weights", small)
    done = srbench("run", *BOTH, *design)
    assert done.code == 0, done.err
    assert "srdiff-optimized" in done.out
    (path,) = list_runs(tmp_path / "results")
    run = read_run(path)
    assert {cell.outcome for cell in run.cells} == {"ok"}
    assert run.head.weights["label"] == "model_ckpt_steps_400.ckpt"
    launches = {cell.pipeline: cell.work["launches"] for cell in run.cells}
    assert launches["srdiff-optimized"] < 0.5 * launches["srdiff-baseline"]
    (record,) = (r for r in run.fidelity if r.reference == "srdiff-baseline")
    assert (record.pipeline, record.outcome) == ("srdiff-optimized", "ok")
    assert record.metrics["psnr"] >= 60
    assert record.metrics["eps_relative_l2"] <= 1e-5
    report = (tmp_path / "reports" / "cpu.md").read_text()
    assert "srdiff-optimized" in report
    assert "S3Diff" not in report
    done = srbench("gate", run.head.run_id, "--json")
    checks = json.loads(done.out)["checks"]
    judged = {check["metric"]: check["verdict"] for check in checks}
    assert judged["psnr"] == judged["worst_block_psnr"] == "pass"
    assert done.code in (0, 1, 3)  # one pair on a busy CPU says nothing of the time


@pytest.mark.full
def test_work_is_counted_without_weights(srbench: Srbench) -> None:
    arms = "srdiff-baseline,srdiff-optimized"
    done = srbench("run", "--gpu", "meta", "--pipelines", arms, "--cases", "80x68x4", "--json")
    assert done.code == 0, done.err
    counted = {cell["pipeline"]: cell["work"] for cell in json.loads(done.out)["cells"]}
    assert counted["srdiff-baseline"]["calls"] == {"unet": 100}
    assert counted["srdiff-optimized"]["launches"] <= 120 * 100
    assert sum(counted["srdiff-baseline"]["flops"].values()) == pytest.approx(11.83e12, rel=1e-3)


def test_checkpoints_are_checked_and_examined(
    srbench: Srbench, small: Path, tmp_path: Path
) -> None:
    file = small / "model_ckpt_steps_400.ckpt"
    for given in (small, file):
        done = srbench("weights", "check", given)
        assert done.code == 0
        facts, hashed = done.out.splitlines()
        assert facts.startswith(WORDS)
        assert hashed == f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}"
        assert done.err == f"{file}: every tensor is there\n"
    tensors = golden_tensors(SMALL)
    del tensors["denoise_fn.mlp.2.bias"]
    tensors["rrdb.conv_last.weight"] = tensors["rrdb.conv_last.weight"][:2]
    write_checkpoint(tmp_path / "odd.ckpt", tensors, step=1)
    done = srbench("weights", "check", "odd.ckpt")
    assert done.code == 2
    assert done.out.splitlines() == [
        "denoise_fn.mlp.2.bias: missing",
        "rrdb.conv_last.weight: [2, 8, 3, 3] where [3, 8, 3, 3] is expected",
    ]
    assert done.err == "srbench: odd.ckpt: 2 problems, listed above\n"
    findings = json.loads(srbench("doctor", "--weights", small, "--json").out)
    (found,) = (each for each in findings if each["what"] == "weights")
    assert found["word"] == "ok"
    assert str(file) in found["detail"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("run", "--pipelines", "s3diff-baseline,srdiff-optimized"), "measure them in two runs"),
        (("run", *BOTH, "--cases", "16x16x2,16x16x4", "--weights", "small"),
         "--cases 16x16x2: srdiff-baseline: these weights upscale by 4, not by 2"),
        (("ladder", "--pipeline", "srdiff-optimized", "--cases", "16x16x8", "--gpu", "cpu",
          "--no-baseline", "--rungs", "S9", "--weights", "small"),
         "--cases 16x16x8: srdiff-optimized: these weights upscale by 4, not by 8"),
        (("run", "--pipelines", "srdiff-ddim", "--gpu", "cpu", "--cases", "16x16x4", "--weights",
          "small"), "option steps=20: this network has 4"),
        (("upscale", "photo.png", "o.png", *UPSCALE, 2, "--weights", "small"),
         "these weights upscale by 4, not by 2"),
        (("upscale", "photo.png", "o.png", *UPSCALE, 4, "--weights", "s3diff"),
         "S3Diff's weights"),
        (("upscale", "photo.png", "o.png", *UPSCALE, 4, "--weights", "cut.ckpt"),
         "cut.ckpt: truncated or damaged"),
        (("upscale", "photo.png", "o.png", "--pipeline", "s3diff-optimized", "--scale", 4,
          "--device", "cpu", "--weights", "small/model_ckpt_steps_400.ckpt"),
         "no such weights folder"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_one_line_and_exit_2(
    srbench: Srbench,
    photo: Path,
    small: Path,
    tmp_path: Path,
    arguments: tuple[object, ...],
    said: str,
) -> None:
    (tmp_path / "small").symlink_to(small)
    weights_folder(tmp_path / "s3diff")
    (tmp_path / "cut.ckpt").write_bytes((small / "model_ckpt_steps_400.ckpt").read_bytes()[:-100])
    done = srbench(*arguments)
    assert done.code == 2
    assert done.out == ""
    assert said in done.err.splitlines()[-1]
    assert done.err.splitlines()[-1].startswith("srbench: ")
    assert "Traceback" not in done.err
    assert not (tmp_path / "o.png").exists()
    assert list_runs(tmp_path / "results") == []
