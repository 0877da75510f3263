"""Full-size networks: memory of the largest case, the spill path, and what crosses the bus."""

import gc
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipelines.contract import Precision, WeightsSource
from srbench.cases import DOCUMENTED, Case
from srbench.fidelity.floats import psnr_float
from tests.gpu.painting import copied_bytes, loaded, pixels, traced

GIB = 2**30
LEAST_BYTES = 18 * GIB
"""Of a card on which these tests mean something."""

HAS_ROOM = (
    torch.cuda.is_available() and torch.cuda.get_device_properties(0).total_memory >= LEAST_BYTES
)
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not HAS_ROOM, reason="no CUDA device of 24 GB or more here"),
]
LARGEST, SMALLEST = max(DOCUMENTED, key=lambda case: case.output_pixels), DOCUMENTED[0]


@pytest.fixture(autouse=True)
def _clean_card() -> Iterator[None]:
    give_back()
    yield
    give_back()


def give_back() -> None:
    """Networks hold themselves in cycles; what they held goes back to the driver."""
    gc.collect()
    torch.cuda.empty_cache()


class Largest(NamedTuple):
    """The largest documented picture, its peak of memory with the weights, and what was chosen."""

    picture: NDArray[np.uint8]
    peak_bytes: int
    parked: bool
    decisions: dict[str, str]


def largest_image(weights: WeightsSource) -> Largest:
    """Load, prepare and paint it."""
    give_back()
    torch.cuda.reset_peak_memory_stats()
    pipeline = loaded("optimized", weights, "cuda", Precision.FP16, {})
    size = LARGEST.height, LARGEST.width, LARGEST.scale
    pipeline.prepare(*size)
    picture = pipeline.upscale(pixels(LARGEST), LARGEST.scale, seed=3)
    peak = torch.cuda.max_memory_allocated()
    return Largest(picture, peak, pipeline.budget(*size).park, pipeline.decisions(*size))


@pytest.fixture(scope="module")
def unconstrained(full_weights: WeightsSource) -> Largest:
    return largest_image(full_weights)


def test_the_largest_case_takes_16_gib_at_most(
    unconstrained: Largest,
) -> None:
    assert unconstrained.picture.shape == (2160, 3840, 3)
    assert unconstrained.picture.std() > 1
    assert set(unconstrained.decisions) >= {"tile_batch", "vae_tiles", "unet"}
    assert unconstrained.peak_bytes <= 16 * GIB, unconstrained.decisions


@pytest.mark.parametrize("free_gib", [16, 10, 8])
def test_with_little_memory_it_finds_its_way(
    free_gib: int,
    full_weights: WeightsSource,
    unconstrained: Largest,
) -> None:
    """Somebody else keeps the rest of the card; the picture stays the same to rounding."""
    free, _ = torch.cuda.mem_get_info()
    if free < free_gib * GIB:
        pytest.skip(f"less than {free_gib} GiB are free here")
    ballast = torch.empty(free - free_gib * GIB, dtype=torch.uint8, device="cuda")
    found = largest_image(full_weights)
    del ballast
    if free_gib < 10:
        assert found.parked, found.decisions
    assert (
        psnr_float(
            *(np.divide(p, 255, dtype=np.float32) for p in (found.picture, unconstrained.picture))
        )
        >= 40
    )


@pytest.fixture(scope="module")
def small_events(full_weights: WeightsSource) -> tuple[list[dict[str, object]], int]:
    """What the smallest documented image does, and the bytes of its noise."""
    pipeline = loaded("optimized", full_weights, "cuda", Precision.FP16, {})
    case: Case = SMALLEST
    pipeline.prepare(case.height, case.width, case.scale)
    upscale = partial(pipeline.upscale, pixels(case), case.scale, seed=3)
    upscale()
    noise = 4 * int(np.prod(pipeline._latent_shape(case.height, case.width, case.scale)))
    return traced(upscale), noise


def test_one_image_in_and_one_image_out(
    small_events: tuple[list[dict[str, object]], int],
) -> None:
    events, noise = small_events
    image = SMALLEST.width * SMALLEST.height * 3
    # A page for scalars; less than any feature map.
    assert image + noise <= copied_bytes(events, "HtoD") <= image + noise + 4096
    out = SMALLEST.output_pixels * 3
    assert out <= copied_bytes(events, "DtoH") <= out + 4096


def test_the_unet_runs_in_flash_attention(
    small_events: tuple[list[dict[str, object]], int],
) -> None:
    if torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("flash attention needs sm80")
    kernels = {str(event["name"]) for event in small_events[0] if event["cat"] == "kernel"}
    assert any("flash" in name or "sdpa" in name for name in kernels), sorted(kernels)
