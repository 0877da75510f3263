"""The quantized pipelines on a card: integers in place of the simulation, and what they gain."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipelines.contract import Precision
from pipelines.passionsr.fp8 import fp8_supported
from pipelines.stable_diffusion.device import check_device
from srbench.cases import Case
from srbench.fidelity.floats import psnr_float
from srbench.registry import load_pipeline
from srbench.systems import resolve_weights
from tests.gpu.painting import graph_launches, pixels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
CASE = Case.parse("128x128x4")
SYSTEMS = ("osediff", "s3diff")


def loaded(name: str, precision: Precision, device: str = "cuda", **options: Any) -> Any:
    kind: Any = load_pipeline(name)
    pipeline = kind(kind.Options(**options))
    pipeline.load(resolve_weights([name], "mini", device), torch.device(device), precision)
    return pipeline


def paint(pipeline: Any) -> NDArray[np.float32]:
    picture: NDArray[np.float32] = pipeline.upscale_float(pixels(CASE), CASE.scale, seed=3)
    assert np.isfinite(picture).all()
    return picture


@pytest.fixture(autouse=True)
def _kernels() -> None:
    if not check_device(torch.device("cuda")).has_kernels:
        pytest.skip("int8 kernels need a card of sm80 or later")


@pytest.mark.parametrize("system", SYSTEMS)
def test_integers_paint_what_is_simulated(system: str) -> None:
    """Rounding may fall the other way where float sums differ, and x0 multiplies that by 14.6."""
    full = paint(loaded(f"{system}-optimized", Precision.FP32))
    simulated, integers = (
        paint(loaded(f"{system}-w8a8", Precision.FP32, arithmetic=how))
        for how in ("simulated", "int8")
    )
    assert psnr_float(full, integers) >= psnr_float(full, simulated) - 1
    assert psnr_float(simulated, integers) >= psnr_float(full, simulated)


@pytest.mark.parametrize("system", SYSTEMS)
def test_in_halves_auto_computes_in_integers(system: str) -> None:
    full = paint(loaded(f"{system}-optimized", Precision.FP32))
    exact = paint(loaded(f"{system}-w8a8", Precision.FP32, arithmetic="simulated"))
    pipeline = loaded(f"{system}-w8a8", Precision.FP16)
    size = (CASE.height, CASE.width, CASE.scale)
    pipeline.prepare(*size)
    said = pipeline.decisions(*size)
    assert said["arithmetic"].startswith("int8 (")
    assert " in int8" in said["arithmetic"]
    assert psnr_float(full, paint(pipeline)) >= psnr_float(full, exact) - 2


@pytest.mark.parametrize("system", SYSTEMS)
def test_integer_layers_are_replayed_from_graphs(system: str) -> None:
    pipeline = loaded(f"{system}-w8a8", Precision.FP16)
    eager = paint(pipeline)
    size = (CASE.height, CASE.width, CASE.scale)
    pipeline.prepare(*size)
    assert pipeline.decisions(*size)["unet"] == "CUDA graph"
    assert graph_launches(lambda: pipeline.upscale(pixels(CASE), CASE.scale, seed=3)) >= 1
    assert psnr_float(eager, paint(pipeline)) >= 50


@pytest.mark.parametrize("system", SYSTEMS)
def test_weights_take_half_the_memory(system: str) -> None:
    def resident(name: str) -> int:
        torch.cuda.empty_cache()
        before = torch.cuda.memory_allocated()
        pipeline = loaded(name, Precision.FP16, cuda_graphs=False)
        found = torch.cuda.memory_allocated() - before
        del pipeline
        return found

    assert resident(f"{system}-w8a8") < resident(f"{system}-optimized")


@pytest.mark.parametrize("system", SYSTEMS)
def test_fp8_computes_where_the_card_has_it_and_says_why_where_not(system: str) -> None:
    full = paint(loaded(f"{system}-optimized", Precision.FP32))
    pipeline = loaded(f"{system}-w8a8", Precision.FP16, arithmetic="fp8")
    said = pipeline.decisions(CASE.height, CASE.width, CASE.scale)["arithmetic"]
    lacking = fp8_supported("cuda")
    assert said.startswith("int8 (fp8 asked for, but " if lacking else "fp8 (linear layers")
    assert psnr_float(full, paint(pipeline)) >= 25
