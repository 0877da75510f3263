"""`s3diff-tensorrt` up to TensorRT itself: what is exported, and what of it may change."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.contract import PipelineError, Precision, WeightsSource
from pipelines.s3diff.baseline import S3DiffBaseline
from pipelines.s3diff.compiled_options import TensorRTOptions
from pipelines.s3diff.options import BaselineOptions
from pipelines.s3diff.tensorrt import S3DiffTensorRT
from pipelines.s3diff.tensorrt_engines import Compile, tensorrt_compiler
from pipelines.s3diff.weight_sources import resolve_weights

SIZE = (16, 16)
SCALE = 4


class Exported(S3DiffTensorRT):
    """Runs the exported programs in PyTorch, where TensorRT would compile them."""

    def _compiler(self, device: torch.device) -> Compile:
        return lambda program, inputs: program.module()


@pytest.fixture(scope="module")
def weights() -> WeightsSource:
    return resolve_weights("mini", "cpu")


def loaded(kind: Any, options: Any, weights: WeightsSource) -> Any:
    pipeline = kind(options)
    pipeline.load(weights, torch.device("cpu"), Precision.FP32)
    return pipeline


@pytest.mark.full  # exporting three networks takes half a minute
def test_engines_see_the_modulation_of_each_image(weights: WeightsSource) -> None:
    """Prepared with one picture, they paint others as the baseline does."""
    ours = loaded(Exported, TensorRTOptions(), weights)
    theirs = loaded(S3DiffBaseline, BaselineOptions(), weights)
    ours.prepare(*SIZE, SCALE)
    built = {name: len(engines) for name, engines in ours.engines.items()}
    assert built == {"unet": 1, "vae_encoder": 1, "vae_decoder": 1}
    rng = np.random.RandomState(0)
    smooth = np.linspace(0, 255, SIZE[0] * SIZE[1] * 3).reshape(*SIZE, 3).astype(np.uint8)
    for image in (rng.randint(0, 256, (*SIZE, 3), dtype=np.uint8), smooth):
        painted, wanted = (p.upscale_float(image, SCALE, seed=3) for p in (ours, theirs))
        assert np.abs(painted - wanted).max() <= 1 / 255
        assert np.mean((painted - wanted) ** 2, dtype=np.float64) <= 1e-9
    other = rng.randint(0, 256, (20, 16, 3), dtype=np.uint8)
    assert np.array_equal(ours.upscale(other, 2, seed=0), theirs.upscale(other, 2, seed=0))
    assert built == {name: len(engines) for name, engines in ours.engines.items()}


def test_without_a_card_or_the_package_it_is_a_sentence(
    weights: WeightsSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(PipelineError, match="TensorRT computes on a CUDA card, not on cpu"):
        loaded(S3DiffTensorRT, TensorRTOptions(), weights)
    monkeypatch.setitem(sys.modules, "torch_tensorrt", None)
    with pytest.raises(PipelineError, match=r"torch_tensorrt cannot be imported .*srbench\[ten"):
        tensorrt_compiler(3)
