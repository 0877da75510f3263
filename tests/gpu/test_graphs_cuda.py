"""CUDA graphs: used once a size is prepared, equal to eager, and never in the way."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.contract import Precision, WeightsSource
from srbench.cases import Case
from srbench.fidelity.floats import psnr_float
from tests.gpu.painting import CASE, TILES, graph_launches, loaded, paint, pixels, traced

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
EAGER = {**TILES, "cuda_graphs": "false"}
UNSEEN = Case.parse("40x32x4")
LARGE = Case.parse("256x256x4")
MIB = 2**20


@pytest.fixture(autouse=True)
def _all_memory_again() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


def prepared(pipeline: Any, case: Case) -> str:
    """Prepare for a case; returns how its UNet will run."""
    size = case.height, case.width, case.scale
    pipeline.prepare(*size)
    return str(pipeline.decisions(*size)["unet"])


@pytest.mark.parametrize(("precision", "least_db"), [(Precision.FP32, 90), (Precision.FP16, 45)])
def test_a_prepared_size_is_replayed_and_equal(
    precision: Precision, least_db: float, weights: WeightsSource
) -> None:
    """To rounding: cuDNN may be asked for another algorithm while it captures."""
    pipeline = loaded("optimized", weights, "cuda", precision)
    assert prepared(pipeline, CASE) == "CUDA graph"
    upscale = partial(pipeline.upscale, pixels(), CASE.scale, seed=3)
    upscale()
    assert graph_launches(upscale) >= 1
    eager = loaded("optimized", weights, "cuda", precision, EAGER)
    assert prepared(eager, CASE) == "eager"
    assert graph_launches(partial(eager.upscale, pixels(), CASE.scale, seed=3)) == 0
    assert psnr_float(paint(pipeline).picture, paint(eager).picture) >= least_db


def test_replay_follows_the_image(weights: WeightsSource) -> None:
    """Weights merged for this image and this image's latent, not those of the capture."""
    pipeline = loaded("optimized", weights, "cuda", Precision.FP32)
    eager = loaded("optimized", weights, "cuda", Precision.FP32, EAGER)
    prepared(pipeline, CASE)
    for image, seed in ((pixels(), 3), (255 - pixels(), 4), (pixels()[:, ::-1].copy(), 5)):
        found = pipeline.upscale_float(image, CASE.scale, seed=seed)
        assert psnr_float(found, eager.upscale_float(image, CASE.scale, seed=seed)) >= 90


def test_a_size_never_seen_works_at_once(weights: WeightsSource) -> None:
    """Without a capture, before and after another size was prepared."""
    pipeline = loaded("optimized", weights, "cuda", Precision.FP16)
    upscale = partial(pipeline.upscale, pixels(UNSEEN), UNSEEN.scale, seed=3)
    assert not any("BeginCapture" in event for event in _runtime_calls(upscale))
    first = upscale()
    prepared(pipeline, CASE)
    assert not any("BeginCapture" in event for event in _runtime_calls(upscale))
    assert np.abs(upscale().astype(int) - first).max() <= 2


def _runtime_calls(call: partial[object]) -> list[str]:
    return [
        event["name"] for event in traced(call) if event["cat"] in ("cuda_runtime", "cuda_driver")
    ]


@pytest.mark.parametrize("spare_mib", [2, 16, 64, 256])
def test_out_of_memory_in_the_capture_is_no_end(spare_mib: int, weights: WeightsSource) -> None:
    """Whatever little memory is left while it captures, images come out afterwards."""
    pipeline = loaded("optimized", weights, "cuda", Precision.FP16)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    allowed = torch.cuda.memory_reserved() + spare_mib * MIB
    torch.cuda.set_per_process_memory_fraction(allowed / total)
    said = prepared(pipeline, LARGE)
    torch.cuda.set_per_process_memory_fraction(1.0)
    if spare_mib == 2:
        assert said.startswith("eager: ")
        assert "memory" in said
    picture = pipeline.upscale(pixels(LARGE), LARGE.scale, seed=3)
    eager = loaded("optimized", weights, "cuda", Precision.FP16, EAGER)
    truth = eager.upscale(pixels(LARGE), LARGE.scale, seed=3)
    assert psnr_float(picture / 255, truth / 255) >= 40
    # The next preparation has all the memory again.
    assert prepared(pipeline, CASE) == "CUDA graph"
    assert np.isfinite(paint(pipeline).picture).all()
