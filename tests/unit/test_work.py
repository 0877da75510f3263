"""Work counters: exact against the published counts and against hand counts."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F

from pipelines.contract import WorkCounts, stage
from pipelines.s3diff.baseline import S3DiffBaseline
from pipelines.s3diff.optimized import S3DiffOptimized
from pipelines.s3diff.options import BaselineOptions, OptimizedOptions
from pipelines.work import WorkCounter, note_call, note_transfer, replayed

Case = tuple[int, int, int]
# TFLOP of the published program, and the least for the same function (adapters merged, prompts
# cached, shared prefix, keys and values once, upsampling folded into transposed convolutions).
PUBLISHED = {
    (128, 128, 4): (5.55, 4.83),
    (512, 512, 2): (34.49, 30.37),
    (720, 1280, 2): (132.09, 116.51),
    (1024, 1024, 2): (147.18, 129.58),
    (1920, 1080, 2): (278.04, 245.01),
}


ENDS = tuple(PUBLISHED)[::4]
"""The smallest and the largest; tests/e2e/test_own_gates.py holds all of them exactly."""


@cache
def counted(case: Case) -> tuple[WorkCounts, WorkCounts]:
    """Of both pipelines; some seconds for the larger sizes."""
    width, height, scale = case
    return (
        S3DiffBaseline(BaselineOptions()).work(height, width, scale),
        S3DiffOptimized(OptimizedOptions()).work(height, width, scale),
    )


@pytest.mark.parametrize("case", ENDS)
def test_flops_of_the_documented_cases(case: Case) -> None:
    baseline, optimized = counted(case)
    wanted = PUBLISHED[case]
    assert baseline.total_flops / 1e12 == pytest.approx(wanted[0], rel=0.002)
    assert optimized.total_flops / 1e12 == pytest.approx(wanted[1], rel=0.002)
    assert baseline.calls["unet"] == optimized.calls["unet"]
    assert baseline.calls["text_encoder"] == 2
    assert "text_encoder" not in optimized.calls
    assert optimized.host_device_bytes == 0
    assert optimized.launches < baseline.launches


def test_parked_bytes_of_the_largest_case() -> None:
    """136 GB in fp16 are 272 GB in fp32, counted by walking the published task queue."""
    work, _ = counted((1920, 1080, 2))
    assert work.host_device_bytes / 2e9 == pytest.approx(136.0, rel=0.002)
    assert work.calls == {"text_encoder": 2, "vae_encoder": 12, "unet": 56, "vae_decoder": 6}


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("inference", [False, True])
def test_hand_counts(device: str, *, inference: bool) -> None:
    x = torch.ones(2, 8, 16, 16, device=device)
    weight = torch.ones(4, 8, 3, 3, device=device)
    tokens = torch.ones(1, 2, 64, 32, device=device)
    with torch.inference_mode(inference), WorkCounter() as counter:
        with stage("vae_encode"):
            F.conv2d(x, weight, padding=1)
        with stage("unet"):
            F.scaled_dot_product_attention(tokens, tokens, tokens)
            note_call("unet", 3)
        note_transfer(x)
    counts = counter.counts()
    assert counts.flops == {
        "vae_encode": 2 * 2 * 4 * 8 * 9 * 16 * 16,
        "unet": 2 * 2 * 2 * 64 * 64 * 32,
    }
    assert counts.launches == 2
    assert counts.calls == {"unet": 3}
    assert counts.host_device_bytes == 2 * 8 * 16 * 16 * 4


def test_peak_counts_what_lives_together_and_no_weights() -> None:
    weight = torch.ones(1000)
    with WorkCounter() as counter:
        a = weight + 1
        b = a * 2
        del a
        c = b + weight
        c.view(10, 100).add_(1)
        del b, c
    assert counter.counts().peak_tensor_bytes == 2 * 4000


def test_a_replayed_call_counts_every_time() -> None:
    def run(calls: int, *, replay: bool) -> tuple[int, int]:
        x = torch.ones(8, 8, device="meta")
        with WorkCounter() as counter:
            for _ in range(calls):
                if replay:
                    replayed("same", lambda: x @ x)
                else:
                    x @ x
        counts = counter.counts()
        return counts.total_flops, counts.launches

    assert run(5, replay=True) == run(5, replay=False) == (5 * 2 * 8**3, 5)


def test_numbers_are_never_replayed() -> None:
    x = torch.arange(3.0)
    with WorkCounter():
        first = replayed("key", lambda: x + 1)
        second = replayed("key", lambda: x + 2)
    assert torch.equal(first + 1, second)


@pytest.mark.parametrize("case", ENDS)
def test_memory_estimate_is_near_the_counted_peak(case: Case) -> None:
    width, height, scale = case
    pipeline = S3DiffOptimized(OptimizedOptions())
    peak = counted(case)[1].peak_tensor_bytes
    assert 0.9 < pipeline.memory_estimate(height, width, scale) / peak < 1.35
