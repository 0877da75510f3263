"""Both pipelines on a CUDA device: the pictures of the CPU, with every option on and each off."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipelines.contract import Precision, WeightsSource
from pipelines.s3diff.options import OPTIMIZED_RUNGS
from pipelines.stable_diffusion.device import check_device
from srbench.fidelity.blocks import ErrorMap
from srbench.fidelity.floats import psnr_float, relative_l2
from tests.gpu.painting import TILES, Painted, eight_bit, loaded, paint, pixels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
"""Option -> those that may not stay on without it."""

NOTHING = OPTIMIZED_RUNGS[0].options
SWITCHES = [key for rung in OPTIMIZED_RUNGS[1:] if not rung.on_top for key in rung.options]


@pytest.fixture(scope="module")
def reference(weights: WeightsSource) -> Painted:
    return paint(loaded("baseline", weights, "cpu", Precision.FP32))


@pytest.fixture(scope="module")
def published(weights: WeightsSource) -> Painted:
    return paint(loaded("baseline", weights, "cuda", Precision.FP16))


@pytest.fixture(autouse=True)
def _fp32_arithmetic() -> Iterator[None]:
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def without(switch: str) -> dict[str, str]:
    """Everything on but one option."""
    return {**TILES, switch: NOTHING[switch]}


def assert_exact(found: Painted, reference: Painted) -> None:
    assert np.isfinite(found.picture).all()
    assert relative_l2(reference.eps, found.eps) <= 1e-4
    assert psnr_float(reference.picture, found.picture) >= 60


def assert_reduced(found: Painted, published: Painted, reference: Painted) -> None:
    """The tier of fp16: no worse than the published arithmetic, and close to it."""
    assert np.isfinite(found.picture).all()
    allowed = 1.05 * relative_l2(reference.eps, published.eps)
    assert relative_l2(reference.eps, found.eps) <= allowed
    floor = psnr_float(reference.picture, published.picture) - 0.5
    assert psnr_float(reference.picture, found.picture) >= floor
    assert psnr_float(published.picture, found.picture) >= 40
    errors = ErrorMap(eight_bit(published.picture), eight_bit(found.picture))
    assert errors.worst_block().psnr_db >= 30


@pytest.mark.parametrize("kind", ["baseline", "optimized"])
def test_fp32_equals_the_cpu(kind: str, weights: WeightsSource, reference: Painted) -> None:
    assert_exact(paint(loaded(kind, weights, "cuda", Precision.FP32)), reference)


@pytest.mark.parametrize("switch", SWITCHES)
def test_fp32_equals_the_cpu_without_an_option(
    switch: str, weights: WeightsSource, reference: Painted
) -> None:
    pipeline = loaded("optimized", weights, "cuda", Precision.FP32, without(switch))
    assert_exact(paint(pipeline), reference)


def test_fp32_equals_the_cpu_with_everything_off(
    weights: WeightsSource, reference: Painted
) -> None:
    pipeline = loaded("optimized", weights, "cuda", Precision.FP32, {**TILES, **NOTHING})
    assert_exact(paint(pipeline), reference)


def test_fp16_keeps_its_tier(
    weights: WeightsSource, published: Painted, reference: Painted
) -> None:
    found = paint(loaded("optimized", weights, "cuda", Precision.FP16))
    assert_reduced(found, published, reference)


@pytest.mark.parametrize("switch", SWITCHES)
def test_fp16_keeps_its_tier_without_an_option(
    switch: str, weights: WeightsSource, published: Painted, reference: Painted
) -> None:
    found = paint(loaded("optimized", weights, "cuda", Precision.FP16, without(switch)))
    assert_reduced(found, published, reference)


@pytest.mark.filterwarnings("default")  # the compiler's own
@pytest.mark.parametrize("kind", ["baseline", "optimized"])
def test_compiled_it_paints_the_same(
    kind: str, weights: WeightsSource, published: Painted, reference: Painted
) -> None:
    options = {**TILES, "compile": "true"}
    pipeline = loaded(kind, weights, "cuda", Precision.FP16, options)
    height, width = pixels().shape[:2]
    pipeline.prepare(height, width, 4)
    assert_reduced(paint(pipeline), published, reference)


@pytest.mark.parametrize("precision", list(Precision))
def test_the_same_picture_twice(precision: Precision, weights: WeightsSource) -> None:
    """Also after another image: nothing of an image stays for the next one."""
    pipeline = loaded("optimized", weights, "cuda", precision)
    image = pixels()
    pipeline.prepare(*image.shape[:2], 4)
    first = pipeline.upscale(image, 4, seed=3)
    other = pipeline.upscale(image[::-1].copy(), 4, seed=4)
    assert not np.array_equal(first, other)
    assert np.array_equal(pipeline.upscale(image, 4, seed=3), first)


@pytest.mark.parametrize("prepared", [False, True])
def test_the_image_stays_on_the_device(*, prepared: bool, weights: WeightsSource) -> None:
    """Nothing inside the optimized image waits for the host."""
    pipeline = loaded("optimized", weights, "cuda", Precision.FP16)
    if prepared:
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


def test_the_card_is_known() -> None:
    card = check_device(torch.device("cuda"))
    assert card.capability == torch.cuda.get_device_capability()
    assert card.name in card.remark


@pytest.mark.parametrize("side", [96, 48, 24, 12])
@pytest.mark.parametrize("keys", [None, 77], ids=["self", "cross"])
def test_flash_attention_takes_the_shapes_of_the_unet(side: int, keys: int | None) -> None:
    if not check_device(torch.device("cuda")).has_kernels:
        pytest.skip("flash attention needs sm80")
    heads = {96: 5, 48: 10, 24: 20, 12: 20}[side]
    query = torch.randn(2, heads, side * side, 64, device="cuda", dtype=torch.float16)
    count = keys or side * side
    key, value = torch.randn(2, 2, heads, count, 64, device="cuda", dtype=torch.float16)
    attention = torch.nn.functional.scaled_dot_product_attention
    with sdpa_kernel([SDPBackend.FLASH_ATTENTION]):
        found = attention(query, key, value)
    with sdpa_kernel([SDPBackend.MATH]):
        # In pieces of queries: all scores of the largest shape in float32 would be gigabytes.
        truth = torch.cat(
            [attention(part, key.float(), value.float()) for part in query.float().split(1024, 2)],
            2,
        )
    assert (found - truth).norm() <= 3e-3 * truth.norm()
