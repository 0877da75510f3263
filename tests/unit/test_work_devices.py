"""The same image counted on the CPU with numbers and on the meta device without."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pipelines.contract import Precision, WorkCounts, stage
from pipelines.s3diff.baseline import S3DiffBaseline
from pipelines.s3diff.optimized import S3DiffOptimized
from pipelines.s3diff.options import BaselineOptions, OptimizedOptions
from pipelines.s3diff.weight_sources import resolve_weights
from pipelines.work import WorkCounter, note_transfer, replayed

TILED = {"latent_tile": 8, "latent_overlap": 2, "vae_encoder_tile": 64, "vae_decoder_tile": 8}
IMAGE = np.random.default_rng(0).integers(0, 256, (16, 40, 3), dtype=np.uint8)
SCALE = 4


@pytest.fixture(
    scope="module", params=[pytest.param("baseline", marks=pytest.mark.full), "optimized"]
)
def counted(request: pytest.FixtureRequest) -> tuple[list[WorkCounts], list[WorkCounts]]:
    """Two counts of `work()` and two of a real image, once a first one has filled the caches."""
    pipeline = (
        S3DiffBaseline(BaselineOptions(**TILED))
        if request.param == "baseline"
        else S3DiffOptimized(OptimizedOptions(**TILED))
    )
    pipeline.load(resolve_weights("mini", "cpu"), torch.device("cpu"), Precision.FP32)
    meta = [pipeline.work(*IMAGE.shape[:2], SCALE) for _ in range(2)]
    real = []
    pipeline.upscale(IMAGE, SCALE, seed=0)
    for _ in range(2):
        with WorkCounter() as counter:
            pipeline.upscale(IMAGE, SCALE, seed=0)
        real.append(counter.counts())
    return meta, real


def test_every_count_is_equal_on_the_second_call(
    counted: tuple[list[WorkCounts], list[WorkCounts]],
) -> None:
    for first, second in counted:
        assert first == second


def test_the_meta_device_counts_what_the_cpu_does(
    counted: tuple[list[WorkCounts], list[WorkCounts]],
) -> None:
    (meta, _), (real, _) = counted
    assert meta.flops == real.flops
    assert meta.calls == real.calls
    assert meta.host_device_bytes == real.host_device_bytes
    pixels = IMAGE.size * SCALE**2
    assert 0 <= real.peak_tensor_bytes - meta.peak_tensor_bytes < 4 * pixels
    assert meta.launches == pytest.approx(real.launches, rel=0.015)


def test_a_count_on_the_meta_device_is_whole(
    counted: tuple[list[WorkCounts], list[WorkCounts]],
) -> None:
    (meta, _), _ = counted
    assert meta.launches > 1000
    assert meta.peak_tensor_bytes > 2**20
    assert meta.calls["unet"] > 2, "more than one tile with two prompts"
    assert meta.calls["vae_encoder"] > 1
    assert sum(meta.flops.values()) == meta.total_flops > 1e9


def _block(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    heads = F.linear(x, weight, weight[0]).unflatten(-1, (2, 16)).transpose(1, 2)
    joined = F.scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)
    return F.linear(joined, weight, weight[1])


def test_attention_has_the_layout_of_the_fused_kernels() -> None:
    """Or the projection after it would copy on the meta device only."""
    counts = []
    for device in ("cpu", "meta"):
        x, weight = torch.ones(2, 64, 32, device=device), torch.ones(32, 32, device=device)
        with torch.inference_mode(), WorkCounter() as counter:
            _block(x, weight)
        counts.append(asdict(counter.counts()))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_adds_casts_and_no_flops(dtype: torch.dtype) -> None:
    x, weight = torch.ones(2, 64, 32), torch.ones(32, 32)

    def count(*, cast: bool) -> WorkCounts:
        with WorkCounter() as counter, torch.inference_mode(), torch.autocast("cpu", dtype, cast):
            _block(x, weight)
        return counter.counts()

    plain, cast = count(cast=False), count(cast=True)
    assert cast.total_flops == plain.total_flops > 0
    assert cast.launches > plain.launches
    assert count(cast=True) == cast


def test_a_replayed_call_counts_all_that_it_counted() -> None:
    def tile(x: torch.Tensor) -> torch.Tensor:
        with stage("unet"):
            note_transfer(x)
            return x @ x

    def count(*, replay: bool) -> WorkCounts:
        x = torch.ones(64, 64, device="meta")
        with WorkCounter() as counter:
            for _ in range(3):
                y = replayed("tile", lambda: tile(x)) if replay else tile(x)
                assert y.shape == (64, 64)
                del y
        return counter.counts()

    assert asdict(count(replay=True)) == asdict(count(replay=False))
    assert count(replay=True).host_device_bytes == 3 * 64 * 64 * 4
