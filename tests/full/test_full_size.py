"""The SD-Turbo-size networks with synthetic weights, on a CPU with 24 GB."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.full

PROGRAM = """
import importlib, json, resource, sys, time
import numpy as np, torch
from pipelines.contract import Precision
from pipelines.s3diff.weight_sources import resolve_weights
from srbench.cases import Case
from srbench.inputs import case_input

module, attribute = sys.argv[1].split(":")
kind = getattr(importlib.import_module(module), attribute)
pipeline = kind(kind.Options(color_fix="none"))
pipeline.load(resolve_weights("synthetic", "cpu"), torch.device("cpu"), Precision.FP32)
eps = []
start = time.perf_counter()
picture = pipeline.upscale_float(
    case_input(Case.parse("128x128x4"), None).pixels, 4, seed=0,
    observe=lambda name, x: eps.append(x.numpy().copy()) if name == "eps" else None,
)
seconds = time.perf_counter() - start
np.savez(sys.argv[2], picture=picture, eps=eps[0])
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps({"seconds": seconds, "peak_gib": peak / 2**20}))
"""


def test_both_pipelines_agree_within_24_gb(tmp_path: Path) -> None:
    found = {}
    for name in ("baseline:S3DiffBaseline", "optimized:S3DiffOptimized"):
        out = tmp_path / f"{name.split(':')[0]}.npz"
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, f"pipelines.s3diff.{name}", out],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
        facts = json.loads(done.stdout.splitlines()[-1])
        sys.stderr.write(f"{name}: {facts}\n")
        assert facts["peak_gib"] < 24
        found[name] = np.load(out)
    baseline, optimized = found.values()
    error = np.linalg.norm(optimized["eps"] - baseline["eps"])
    assert error / np.linalg.norm(baseline["eps"]) <= 1e-5
    mse = np.mean((optimized["picture"].astype(np.float64) - baseline["picture"]) ** 2)
    assert -10 * np.log10(mse + 1e-16) >= 60
    assert 0.05 < baseline["picture"].std() < 0.5
    clamped = np.mean((baseline["picture"] <= 0) | (baseline["picture"] >= 1))
    assert clamped < 0.1
