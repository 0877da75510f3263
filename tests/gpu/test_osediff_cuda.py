"""Both OSEDiff pipelines on a CUDA device: the pictures of the CPU, each option on and off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.contract import Precision, WeightsSource
from pipelines.osediff.baseline import OSEDiffBaseline
from pipelines.osediff.optimized import OSEDiffOptimized
from pipelines.osediff.options import OPTIMIZED_RUNGS
from pipelines.osediff.weight_sources import resolve_weights
from srbench.fidelity.floats import psnr_float, relative_l2
from srbench.registry import parse_options
from tests.gpu.painting import TILES, Painted, graph_launches, paint, pixels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]

OPTIONS = {**TILES, "process_size": "1"}
NOTHING = OPTIMIZED_RUNGS[0].options
SWITCHES = [key for rung in OPTIMIZED_RUNGS[1:] if not rung.on_top for key in rung.options]


def loaded(
    kind: Any,
    weights: WeightsSource,
    device: str,
    precision: Precision,
    options: Mapping[str, str] = OPTIONS,
) -> Any:
    pipeline = kind(parse_options(kind, options))
    pipeline.load(weights, torch.device(device), precision)
    return pipeline


@pytest.fixture(scope="module")
def osediff_weights() -> WeightsSource:
    return resolve_weights("mini", "cuda")


@pytest.fixture(scope="module")
def reference(osediff_weights: WeightsSource) -> Painted:
    return paint(loaded(OSEDiffBaseline, osediff_weights, "cpu", Precision.FP32))


@pytest.fixture(scope="module")
def published(osediff_weights: WeightsSource) -> Painted:
    return paint(loaded(OSEDiffBaseline, osediff_weights, "cuda", Precision.FP16))


@pytest.fixture(autouse=True)
def _fp32_arithmetic() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def without(switch: str) -> dict[str, str]:
    """Everything on but one option."""
    return {**OPTIONS, switch: NOTHING[switch]}


def assert_exact(found: Painted, reference: Painted) -> None:
    assert relative_l2(reference.eps, found.eps) <= 1e-4
    assert psnr_float(reference.picture, found.picture) >= 60


def assert_reduced(found: Painted, published: Painted, reference: Painted) -> None:
    """No worse than the published arithmetic, and close to it."""
    allowed = 1.05 * relative_l2(reference.eps, published.eps)
    assert relative_l2(reference.eps, found.eps) <= allowed
    floor = psnr_float(reference.picture, published.picture) - 0.5
    assert psnr_float(reference.picture, found.picture) >= floor
    assert psnr_float(published.picture, found.picture) >= 40


@pytest.mark.parametrize("kind", [OSEDiffBaseline, OSEDiffOptimized])
def test_fp32_equals_the_cpu(kind: Any, osediff_weights: WeightsSource, reference: Painted) -> None:
    assert_exact(paint(loaded(kind, osediff_weights, "cuda", Precision.FP32)), reference)


@pytest.mark.parametrize("switch", SWITCHES)
def test_an_option_less_paints_the_same(
    switch: str, osediff_weights: WeightsSource, published: Painted, reference: Painted
) -> None:
    exact, reduced = (
        paint(loaded(OSEDiffOptimized, osediff_weights, "cuda", precision, without(switch)))
        for precision in (Precision.FP32, Precision.FP16)
    )
    assert_exact(exact, reference)
    assert_reduced(reduced, published, reference)


def test_everything_off_paints_the_same(osediff_weights: WeightsSource, reference: Painted) -> None:
    options = {**OPTIONS, **NOTHING}
    pipeline = loaded(OSEDiffOptimized, osediff_weights, "cuda", Precision.FP32, options)
    assert_exact(paint(pipeline), reference)


@pytest.mark.parametrize("precision", list(Precision))
def test_a_prepared_size_is_replayed_and_equal(
    precision: Precision, osediff_weights: WeightsSource
) -> None:
    """The prompt's keys and values were read once, before the graph was captured."""
    image = pixels()
    pipeline = loaded(OSEDiffOptimized, osediff_weights, "cuda", precision)
    eager = pipeline.upscale_float(image, 4, seed=3)
    pipeline.prepare(*image.shape[:2], 4)
    assert pipeline.decisions(*image.shape[:2], 4)["unet"] == "CUDA graph"
    replayed = pipeline.upscale_float(image, 4, seed=3)
    assert psnr_float(eager, replayed) >= 60
    assert graph_launches(lambda: pipeline.upscale(image, 4, seed=3)) > 0
    pipeline.upscale(image[::-1].copy(), 4, seed=4)
    assert np.array_equal(pipeline.upscale_float(image, 4, seed=3), replayed)


def test_the_image_stays_on_the_device(osediff_weights: WeightsSource) -> None:
    """Nothing inside the optimized image waits for the host."""
    pipeline = loaded(OSEDiffOptimized, osediff_weights, "cuda", Precision.FP16)
    pipeline.prepare(80, 96, 4)
    image = torch.rand(1, 3, 80, 96, device="cuda")
    noise = torch.randn(pipeline._latent_shape(80, 96, 4), device="cuda")
    with torch.inference_mode():
        pipeline._infer(image, 4, noise, lambda name, x: None)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            pipeline._infer(image, 4, noise, lambda name, x: None)
        finally:
            torch.cuda.set_sync_debug_mode("default")
