"""Both pipelines against what the authors' own program computed (float32, CPU).

In a process held to AVX2, for the reasons told in test_s3diff.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from srbench.cpu_kernels import AVX2
from tests.golden.osediff_recipe import DATA, write_osediff_weights

CASES = ["untiled_32x32_x4", "tiled_44x60_x4"]
PIPELINES = [
    "pipelines.osediff.baseline:OSEDiffBaseline",
    "pipelines.osediff.optimized:OSEDiffOptimized",
]
FIXES = ["none", "wavelet", "adain"]

PROGRAM = """
import importlib, json, sys
from dataclasses import replace
from itertools import product
from pathlib import Path
import numpy as np, torch
from pipelines.contract import Precision, WeightsSource
from pipelines.diffusion.color_fix import truncate_to_uint8

weights, data, out, targets, cases = sys.argv[1:]
source = WeightsSource(Path(weights), "folder", "golden", True)
for target, case in product(targets.split(), cases.split()):
    module, attribute = target.split(":")
    pipeline_class = getattr(importlib.import_module(module), attribute)
    golden = np.load(Path(data, case + ".npz"))
    params = json.loads(str(golden["params"]))
    scale, seed = params.pop("scale"), params.pop("seed")
    pipeline = pipeline_class(pipeline_class.Options(**params))
    pipeline.load(source, torch.device("cpu"), Precision.FP32)
    found = {"adain": pipeline.upscale(golden["lr"], scale, seed=seed)}
    pipeline.options = replace(pipeline.options, color_fix="none")
    found["picture"] = pipeline.upscale_float(
        golden["lr"], scale, seed=seed, observe=lambda n, x: found.setdefault(n, x.numpy().copy())
    )
    output, source_picture = (
        torch.from_numpy(x).permute(2, 0, 1).contiguous()
        for x in (found["picture"], golden["lq"].astype(np.float32) / 255)
    )
    found["none"] = truncate_to_uint8(output).permute(1, 2, 0).numpy()
    pipeline.options = replace(pipeline.options, color_fix="wavelet")  # the networks are as before
    fixed = pipeline._fix_colors(output, source_picture)
    found["wavelet"] = truncate_to_uint8(fixed).permute(1, 2, 0).numpy()
    np.savez(Path(out, f"{attribute}_{case}.npz"), **found)
"""


@pytest.fixture(scope="module")
def weights(golden_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("osediff") / "weights"
    return write_osediff_weights(folder, golden_weights / "sd-turbo")


@pytest.fixture(scope="module")
def results(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results")
    arguments = [weights, DATA, out, " ".join(PIPELINES), " ".join(CASES)]
    subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        check=True,
        cwd=Path(__file__).resolve().parents[2],
        env=os.environ | AVX2,
    )
    return out


def _load(results: Path, pipeline: str, case: str) -> tuple[dict[str, Any], dict[str, Any]]:
    found = np.load(results / f"{pipeline.split(':')[1]}_{case}.npz")
    return dict(found), dict(np.load(DATA / f"{case}.npz"))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_models_picture(results: Path, pipeline: str, case: str) -> None:
    found, golden = _load(results, pipeline, case)
    y = found["picture"].transpose(2, 0, 1)[None] * 2 - 1
    assert np.abs(y - golden["y"]).max() <= 1e-3


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize(("fix", "worst"), [("none", 1), ("wavelet", 1), ("adain", 2)])
def test_pictures(results: Path, pipeline: str, case: str, fix: str, worst: int) -> None:
    found, golden = _load(results, pipeline, case)
    wanted = golden["nofix" if fix == "none" else fix].astype(int)
    difference = np.abs(found[fix].astype(int) - wanted)
    assert difference.max() <= worst
    assert (difference == 0).mean() >= 0.999


@pytest.mark.parametrize("case", CASES)
def test_the_input_is_resized_as_published(case: str) -> None:

    from pipelines.osediff.resizing import upscaled_input

    golden = np.load(DATA / f"{case}.npz")
    params = json.loads(str(golden["params"]))
    found = upscaled_input(golden["lr"], params["scale"], params["process_size"])
    assert np.array_equal(found, golden["lq"])


@pytest.mark.parametrize("case", CASES)
def test_optimized_stays_with_the_baseline(results: Path, case: str) -> None:
    """At least 68 dB on the 8-bit picture, eps to a relative L2 of 1e-5."""
    baseline, _ = _load(results, PIPELINES[0], case)
    optimized, _ = _load(results, PIPELINES[1], case)
    error = np.linalg.norm(optimized["eps"] - baseline["eps"]) / np.linalg.norm(baseline["eps"])
    assert error <= 1e-5
    for fix in FIXES:
        difference = optimized[fix].astype(float) - baseline[fix]
        assert 20 * np.log10(255) - 10 * np.log10((difference**2).mean() + 1e-12) >= 68
