"""SRDiff on a CUDA device: the CPU's pictures, graphs, batches, tiles, and no wait for the host."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipelines.contract import Precision, WeightsSource
from pipelines.kernels import operators
from pipelines.srdiff.options import OPTIMIZED_RUNGS
from srbench.cases import Case
from srbench.fidelity.blocks import ErrorMap
from srbench.fidelity.floats import psnr_float, relative_l2
from srbench.gate.fidelity import SATURATED_DB
from srbench.gate.policy import Policy
from srbench.registry import load_pipeline, parse_options
from tests.gpu.painting import (
    Painted,
    copied_bytes,
    eight_bit,
    graph_launches,
    paint,
    pixels,
    traced,
)

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
CASE = Case.parse("27x18x4")
"""An odd side, which is padded."""
UNSEEN = Case.parse("20x16x4")
LARGER = Case.parse("40x24x4")
STEPS = 100
NOTHING = OPTIMIZED_RUNGS[0].options
SWITCHES = [key for rung in OPTIMIZED_RUNGS[1:] for key in rung.options]
ALIKE = {"noise": "cpu"}
"""The same noise on every device."""
TILED = {"tile": "64", "tile_overlap": "16"}
CAPTURED = "one step captured"
KERNELS = ("mish_pad", "pad_concat", "diffusion_step")


def loaded(
    name: str,
    weights: WeightsSource,
    device: str,
    precision: Precision,
    options: Mapping[str, str] = {},
) -> Any:
    """A pipeline with these options as texts, its weights on the device."""
    kind = load_pipeline(f"srdiff-{name}")
    pipeline = kind(parse_options(kind, options))
    pipeline.load(weights, torch.device(device), precision)
    return pipeline


def prepared(pipeline: Any, case: Case = CASE) -> dict[str, str]:
    """Prepare for a case; returns what was chosen."""
    size = case.height, case.width, case.scale
    pipeline.prepare(*size)
    decisions: dict[str, str] = pipeline.decisions(*size)
    return decisions


def painter(pipeline: Any, case: Case = CASE, seed: int = 3) -> Callable[[], NDArray[np.uint8]]:
    return partial(pipeline.upscale, pixels(case), case.scale, seed=seed)


@pytest.fixture(scope="module")
def reference(srdiff_weights: WeightsSource) -> Painted:
    return paint(loaded("baseline", srdiff_weights, "cpu", Precision.FP32, ALIKE), CASE)


@pytest.fixture(scope="module")
def published(srdiff_weights: WeightsSource) -> Painted:
    return paint(loaded("baseline", srdiff_weights, "cuda", Precision.FP16, ALIKE), CASE)


@pytest.fixture(autouse=True)
def _fp32_arithmetic() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def assert_exact(found: Painted, reference: Painted) -> None:
    assert np.isfinite(found.picture).all()
    assert relative_l2(reference.eps, found.eps) <= 1e-4
    assert psnr_float(reference.picture, found.picture) >= 60


def assert_reduced(found: Painted, published: Painted, reference: Painted) -> None:
    """The tier of fp16 as the gate holds it: rounded like the published one, close to it."""
    assert np.isfinite(found.picture).all()
    policy = Policy()
    allowed = max(relative_l2(reference.eps, published.eps), policy.own_precision_eps)
    assert relative_l2(reference.eps, found.eps) <= allowed
    theirs = psnr_float(reference.picture, published.picture)
    floor = min(theirs, SATURATED_DB) - policy.own_precision_drop_db
    assert psnr_float(reference.picture, found.picture) >= floor
    assert psnr_float(published.picture, found.picture) >= 40
    errors = ErrorMap(eight_bit(published.picture), eight_bit(found.picture))
    assert errors.worst_block().psnr_db >= 30


@pytest.mark.parametrize("name", ["baseline", "optimized"])
def test_fp32_equals_the_cpu(name: str, srdiff_weights: WeightsSource, reference: Painted) -> None:
    pipeline = loaded(name, srdiff_weights, "cuda", Precision.FP32, ALIKE)
    assert_exact(paint(pipeline, CASE), reference)


@pytest.mark.parametrize("switches", [*([each] for each in SWITCHES), SWITCHES], ids="-".join)
@pytest.mark.parametrize("precision", list(Precision))
def test_every_option_can_be_off(
    precision: Precision,
    switches: list[str],
    srdiff_weights: WeightsSource,
    published: Painted,
    reference: Painted,
) -> None:
    off = {**ALIKE, **{switch: NOTHING[switch] for switch in switches}}
    pipeline = loaded("optimized", srdiff_weights, "cuda", precision, off)
    prepared(pipeline)
    if precision is Precision.FP32:
        assert_exact(paint(pipeline, CASE), reference)
    else:
        assert_reduced(paint(pipeline, CASE), published, reference)


def test_fp16_keeps_its_tier(
    srdiff_weights: WeightsSource, published: Painted, reference: Painted
) -> None:
    pipeline = loaded("optimized", srdiff_weights, "cuda", Precision.FP16, ALIKE)
    assert_reduced(paint(pipeline, CASE), published, reference)


@pytest.mark.parametrize(("precision", "least_db"), [(Precision.FP32, 90), (Precision.FP16, 45)])
@pytest.mark.parametrize(
    ("name", "options", "steps"),
    [
        ("optimized", {}, STEPS),
        ("optimized", TILED, STEPS),
        ("ddim", {"steps": "1"}, 1),
        ("ddim", {"steps": "2", "eta": "1"}, 2),
    ],
    ids=["optimized", "tiled", "one step", "two steps"],
)
def test_a_prepared_size_is_replayed_and_equal(
    name: str,
    options: dict[str, str],
    steps: int,
    precision: Precision,
    least_db: float,
    srdiff_weights: WeightsSource,
) -> None:
    """One graph for all steps; to rounding, cuDNN may choose another algorithm meanwhile."""
    pipeline = loaded(name, srdiff_weights, "cuda", precision, options)
    decisions = prepared(pipeline, LARGER)
    assert decisions["cuda_graphs"] == CAPTURED
    assert decisions["tiles"] == ("none" if options is not TILED else "6 of 64x64")
    upscale = painter(pipeline, LARGER)
    upscale()
    assert graph_launches(upscale) >= steps
    eager = loaded(name, srdiff_weights, "cuda", precision, {**options, "cuda_graphs": "false"})
    assert "cuda_graphs" not in prepared(eager, LARGER)
    same = psnr_float(paint(pipeline, LARGER).picture, paint(eager, LARGER).picture)
    assert same >= least_db


def test_replay_follows_the_image_and_the_seed(srdiff_weights: WeightsSource) -> None:
    """Their condition and noise, not those of the capture or of the image before."""
    pipeline = loaded("optimized", srdiff_weights, "cuda", Precision.FP32)
    eager = loaded("optimized", srdiff_weights, "cuda", Precision.FP32, {"cuda_graphs": "false"})
    prepared(pipeline)
    image = pixels(CASE)
    pictures = []
    for source, seed in ((image, 3), (255 - image, 3), (image, 4), (image, 3)):
        found = pipeline.upscale_float(source, CASE.scale, seed=seed)
        assert psnr_float(found, eager.upscale_float(source, CASE.scale, seed=seed)) >= 90
        pictures.append(found)
    assert psnr_float(pictures[0], pictures[2]) < 60
    assert np.array_equal(eight_bit(pictures[0]), eight_bit(pictures[3]))


def test_other_sizes_leave_a_captured_one_alone(srdiff_weights: WeightsSource) -> None:
    """What a graph reads must stay where it is, whatever is painted between."""
    pipeline = loaded("optimized", srdiff_weights, "cuda", Precision.FP16)
    unprepared = painter(pipeline, UNSEEN)()
    prepared(pipeline)
    first = painter(pipeline)()
    assert np.abs(painter(pipeline, UNSEEN)().astype(int) - unprepared).max() <= 2
    list(pipeline.upscale_samples(pixels(CASE), CASE.scale, seeds=[7, 8]))
    assert prepared(pipeline, LARGER)["cuda_graphs"] == CAPTURED
    painter(pipeline, LARGER)()
    torch.cuda.empty_cache()
    assert graph_launches(painter(pipeline)) >= STEPS
    assert np.array_equal(painter(pipeline)(), first)


@pytest.mark.parametrize("precision", list(Precision))
def test_samples_of_a_batch_are_single_ones(
    precision: Precision, srdiff_weights: WeightsSource
) -> None:
    pipeline = loaded("optimized", srdiff_weights, "cuda", precision)
    prepared(pipeline)
    assert pipeline._batch(*pipeline.hr_size(CASE.height, CASE.width)) >= 3
    seeds = [3, 4, 5]
    samples = list(pipeline.upscale_samples(pixels(CASE), CASE.scale, seeds=seeds))
    assert np.abs(samples[0].astype(int) - samples[1]).max() > 2
    least_db = 60 if precision is Precision.FP32 else 45
    for seed, sample in zip(seeds, samples, strict=True):
        alone = painter(pipeline, seed=seed)()
        assert psnr_float(sample / 255, alone / 255) >= least_db


def test_tiles_equal_those_of_the_cpu(srdiff_weights: WeightsSource) -> None:
    options = {**ALIKE, **TILED}
    found, truth = (
        paint(loaded("optimized", srdiff_weights, device, Precision.FP32, options), LARGER)
        for device in ("cuda", "cpu")
    )
    assert_exact(found, truth)


def _all_of(samples: partial[object]) -> list[object]:
    return list(samples())


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("options", [{}, TILED], ids=["whole", "tiled"])
def test_triton_computes_all_that_is_fused(
    options: dict[str, str], precision: Precision, srdiff_weights: WeightsSource
) -> None:
    """A kernel for each call: a layout or a dtype that does not fit would run the reference."""
    if not operators._card_runs_triton(torch.cuda.current_device()):
        pytest.skip("the kernels need sm80")
    settings = {"steps": "2", "cuda_graphs": "false", **options}
    pipeline = loaded("ddim", srdiff_weights, "cuda", precision, settings)
    for seeds in ([3], [3, 4]):
        samples = partial(pipeline.upscale_samples, pixels(LARGER), LARGER.scale, seeds=seeds)
        sample = partial(_all_of, samples)
        sample()
        events = traced(sample)
        calls = Counter(event["name"] for event in events if event["cat"] == "cpu_op")
        launched = [event["name"] for event in events if event["cat"] == "kernel"]
        for kernel in KERNELS:
            asked = calls[f"pipelines::{kernel}"]
            assert asked > 0
            assert sum(f"{kernel}_kernel" in name for name in launched) == asked, kernel


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize(
    ("name", "is_prepared"), [("baseline", False), ("optimized", False), ("optimized", True)]
)
def test_no_step_waits_for_the_host(
    name: str, precision: Precision, is_prepared: bool, srdiff_weights: WeightsSource
) -> None:
    pipeline = loaded(name, srdiff_weights, "cuda", precision)
    if is_prepared:
        prepared(pipeline)
    with torch.inference_mode():
        inputs = pipeline._inputs(pixels(CASE), torch.device("cuda"))
        pipeline._sample(inputs, [3], None)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            pipeline._sample(inputs, [4], None)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_one_image_in_and_one_image_out(srdiff_weights: WeightsSource) -> None:
    pipeline = loaded("optimized", srdiff_weights, "cuda", Precision.FP16)
    prepared(pipeline, LARGER)
    upscale = painter(pipeline, LARGER)
    upscale()
    events = traced(upscale)
    image, picture = 3 * LARGER.width * LARGER.height, 3 * LARGER.output_pixels
    # A page for scalars; less than any feature map.
    assert image <= copied_bytes(events, "HtoD") <= image + 4096
    assert picture <= copied_bytes(events, "DtoH") <= picture + 4096


@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("name", ["baseline", "optimized"])
def test_the_same_picture_twice(
    name: str, precision: Precision, srdiff_weights: WeightsSource
) -> None:
    pipeline = loaded(name, srdiff_weights, "cuda", precision)
    prepared(pipeline)
    first = painter(pipeline)()
    assert not np.array_equal(painter(pipeline, seed=4)(), first)
    assert np.array_equal(painter(pipeline)(), first)
