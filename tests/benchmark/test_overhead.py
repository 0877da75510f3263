"""What the harness adds to the timed span: a pipeline that does nothing, measured as any other."""

import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from pipelines.contract import STAGES, Precision, Tier, stage
from srbench import protocol
from srbench.probes.clock import timed
from srbench.workbench import Workbench

pytestmark = pytest.mark.timing

LIMIT_MS = 0.2
IMAGES = 300


@dataclass(frozen=True, slots=True)
class NoOptions:
    """Nothing to choose."""


class NoOp:
    """Marks every stage and returns a picture that was there before."""

    name: ClassVar[str] = "no-op"
    version: ClassVar[str] = "1"
    Options: ClassVar[type] = NoOptions
    precisions: ClassVar[tuple[Precision, ...]] = (Precision.FP32,)
    tiers: ClassVar[dict[Precision, Tier]] = {Precision.FP32: Tier.EXACT}

    def __init__(self, options: NoOptions) -> None:
        self._picture = np.zeros((64, 64, 3), np.uint8)

    def load(self, weights: Any, device: Any, precision: Precision) -> None:
        """There are no weights."""

    def upscale(self, image: np.ndarray, scale: int, *, seed: int) -> np.ndarray:
        for name in STAGES:
            with stage(name):
                pass
        return self._picture


def test_the_timed_span_of_a_call_that_does_nothing(benchmark: BenchmarkFixture) -> None:
    pipeline, image = NoOp(NoOptions()), np.zeros((16, 16, 3), np.uint8)
    latencies_ms: list[float] = []

    def image_in_image_out() -> None:
        timing = timed(lambda: pipeline.upscale(image, 4, seed=0), "cpu")
        assert tuple(timing.stages_ms) == STAGES
        latencies_ms.append(timing.latency_ms)

    benchmark(image_in_image_out)
    median_ms = benchmark.extra_info["latency_ms"] = statistics.median(latencies_ms)
    assert median_ms < LIMIT_MS


def test_the_latency_that_a_worker_reports(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    bench = Workbench()
    target = f"{__name__}:NoOp"
    bench.handle(protocol.Describe(arm="no-op", pipeline=target, assignments={"": {}, "no-op": {}}))
    bench.handle(
        protocol.Load(
            path=str(tmp_path),
            kind="mini",
            digest="0",
            synthetic=True,
            device="cpu",
            precision="fp32",
        )
    )
    np.save(tmp_path / "image.npy", np.zeros((16, 16, 3), np.uint8))
    request = protocol.Upscale(image=str(tmp_path / "image.npy"), scale=4, seed=0)
    replies = benchmark.pedantic(
        lambda: [bench.handle(request) for _ in range(IMAGES)], rounds=3, warmup_rounds=1
    )
    median_ms = statistics.median(reply.latency_ms for reply in replies)
    benchmark.extra_info["latency_ms"] = median_ms
    assert median_ms < LIMIT_MS
