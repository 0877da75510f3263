"""OSEDiff and its quantized pipelines on the command line, with small seeded weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from pipelines.osediff.mini import derive
from pipelines.s3diff.recipe import Ends, Recipe
from pipelines.s3diff.synthesize import synthesize
from srbench.images import read_image, write_image
from srbench.store import list_runs, read_run
from tests.e2e.conftest import Srbench
from tests.tiny_s3diff import few_adapters

pytestmark = pytest.mark.e2e
BASELINE = ("--pipeline", "osediff-baseline", "--device", "cpu", "--scale", 4)
SMALL = ("--set", "process_size=64")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `sd-turbo/` and `osediff.pkl`."""
    place = tmp_path_factory.mktemp("weights")
    synthesize(place / "s3diff", Recipe("small", 0, few_adapters(), Ends.neutral()))
    with torch.inference_mode():
        derive(place / "s3diff", place / "osediff", (0.5, 0.5))
    return place / "osediff"


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    write_image(tmp_path / "photo.png", np.ascontiguousarray(data.astronaut()[60:79, 200:217]))
    return tmp_path / "photo.png"


def test_pictures_have_the_reference_size_and_the_published_colours(
    srbench: Srbench, small: Path, photo: Path, tmp_path: Path
) -> None:
    weights = ("--weights", small, *SMALL)
    pictures = {}
    for name, more in (
        ("plain", ()),
        *((fix, ("--color-fix", fix)) for fix in ("adain", "wavelet")),
    ):
        done = srbench("upscale", photo, f"{name}.png", *BASELINE, *weights, *more)
        assert done.code == 0, done.err
        pictures[name] = read_image(tmp_path / f"{name}.png")
    assert pictures["plain"].shape == (72, 64, 3)  # 76x68 resampled to multiples of 8
    assert np.array_equal(pictures["plain"], pictures["adain"])
    assert not np.array_equal(pictures["plain"], pictures["wavelet"])


def test_a_folder_goes_on_where_it_stopped(
    srbench: Srbench, small: Path, photo: Path, tmp_path: Path
) -> None:
    command = ("upscale", "lr", "sr", "--pipeline", "osediff-optimized", "--device", "cpu")
    command += ("--scale", 4, "--weights", small, *SMALL, "--json")
    (tmp_path / "lr").mkdir()
    for name in "ab":
        (tmp_path / "lr" / f"{name}.png").write_bytes(photo.read_bytes())
    done = srbench(*command)
    assert done.code == 0, done.err
    first = json.loads(done.out)
    assert [image["outcome"] for image in first["images"]] == ["written", "written"]
    assert read_image(tmp_path / "sr" / "a.png").shape == (72, 64, 3)
    (tmp_path / "sr" / "b.png").unlink()
    second = json.loads(srbench(*command).out)
    assert [image["outcome"] for image in second["images"]] == ["skipped", "written"]


def test_weights_are_checked_and_told_apart(
    srbench: Srbench, small: Path, photo: Path, tmp_path: Path
) -> None:
    done = srbench("weights", "check", small)
    assert done.code == 0, done.err
    assert done.err == f"{small}: every tensor is there\n"
    assert done.out.splitlines()[0].endswith("  osediff.pkl")
    done = srbench("upscale", photo, "a.png", *BASELINE, "--weights", small.parent / "s3diff")
    assert done.code == 2
    assert "s3diff.pkl beside it is of S3Diff" in done.err
    done = srbench("upscale", photo, "a.png", *BASELINE, "--set", "proces_size=64")
    assert done.code == 2
    assert "Did you mean 'process_size'?" in done.err
    done = srbench("run", "--pipelines", "osediff-optimized,s3diff-w8a8", "--gpu", "cpu")
    assert done.code == 2
    assert "take different weights" in done.err


def test_a_quantized_pipeline_refuses_what_it_cannot_do(
    srbench: Srbench, small: Path, photo: Path, tmp_path: Path
) -> None:
    quantized = ("upscale", photo, "a.png", "--device", "cpu", "--scale", 4, "--weights", small)
    for name, text, words in (
        ("osediff-w6a6", "arithmetic=int8", "no card multiplies 6 bits"),
        ("osediff-w8a8", "fused_qkv=true", "leave it false"),
        ("osediff-w8a8", "quantization=nowhere.safetensors", "nowhere.safetensors: no such file"),
        ("osediff-w8a8", "quantization=photo.png", "photo.png: truncated or not a safetensors"),
    ):
        done = srbench(*quantized, "--pipeline", name, "--set", text)
        assert done.code == 2, done.err
        assert words in done.err
        assert done.err.count("\n") == 1
    assert not (tmp_path / "a.png").exists()


@pytest.mark.full  # eight workers
def test_a_run_shows_what_quantization_costs(srbench: Srbench, small: Path, tmp_path: Path) -> None:
    arms = ("osediff-optimized", "osediff-w8a8", "osediff-w8a8-maxmin", "osediff-w6a6")
    done = srbench(
        "run", "--gpu", "cpu", "--pipelines", ",".join(arms), "--cases", "16x16x4",
        "--blocks", 1, "--pairs", 1, "--weights", small, *SMALL,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert all(arm in done.out for arm in arms)
    (path,) = list_runs(tmp_path / "results")
    run = read_run(path)
    assert {cell.outcome for cell in run.cells} == {"ok"}
    assert set(run.head.tiers.values()) == {"exact", "approx"}
    chosen = {cell.pipeline: cell.decisions for cell in run.cells}
    assert chosen["osediff-w8a8"]["arithmetic"].startswith("simulated (")
    assert "no card multiplies 6 bits" in chosen["osediff-w6a6"]["arithmetic"]
    report = (tmp_path / "reports" / "cpu.md").read_text()
    for subject in ("Arithmetic", "Quantized", "Model size", "Calibration"):
        assert f"| {subject} |" in report
    assert "MB (fp16: " in report
    shown = srbench("show", run.head.run_id).out
    assert "chosen by osediff-w8a8-maxmin in 16x16x4\n" in shown
    assert "  calibration: least and greatest values, neither smoothed nor learned" in shown
