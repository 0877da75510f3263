"""Both pipelines on a CUDA device."""

import numpy as np
import pytest
import torch

from pipelines.contract import Precision, WeightsSource
from pipelines.s3diff.baseline import S3DiffBaseline
from pipelines.s3diff.optimized import S3DiffOptimized
from pipelines.s3diff.options import BaselineOptions, OptimizedOptions
from pipelines.s3diff.weight_sources import resolve_weights
from srbench.cases import Case
from srbench.inputs import case_input

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
TILES = {
    "latent_tile": 32,
    "latent_overlap": 8,
    "vae_encoder_tile": 192,
    "vae_decoder_tile": 16,
}


@pytest.fixture(scope="module")
def weights() -> WeightsSource:
    return resolve_weights("mini", "cuda")


def _run(
    kind: type, options: object, weights: WeightsSource, device: str, precision: Precision
) -> tuple[np.ndarray, np.ndarray]:
    pipeline = kind(options)
    pipeline.load(weights, torch.device(device), precision)
    eps: list[torch.Tensor] = []
    picture = pipeline.upscale_float(
        case_input(Case.parse("96x80x4"), None).pixels,
        4,
        seed=3,
        observe=lambda name, x: eps.append(x.float().cpu()) if name == "eps" else None,
    )
    return picture, eps[0].numpy()


def _psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((a.astype(np.float64) - b) ** 2) + 1e-16))


@pytest.fixture(scope="module")
def reference(weights: WeightsSource) -> tuple[np.ndarray, np.ndarray]:
    options = BaselineOptions(**TILES)
    return _run(S3DiffBaseline, options, weights, "cpu", Precision.FP32)


@pytest.mark.parametrize(
    ("kind", "options"),
    [(S3DiffBaseline, BaselineOptions), (S3DiffOptimized, OptimizedOptions)],
)
def test_fp32_equals_the_cpu(
    kind: type, options: type, weights: WeightsSource, reference: tuple[np.ndarray, np.ndarray]
) -> None:
    torch.backends.cudnn.allow_tf32 = False
    picture, eps = _run(kind, options(**TILES), weights, "cuda", Precision.FP32)
    assert np.linalg.norm(eps - reference[1]) / np.linalg.norm(reference[1]) <= 1e-4
    assert _psnr(picture, reference[0]) >= 60


def test_fp16_is_no_worse_than_the_baselines_own(
    weights: WeightsSource, reference: tuple[np.ndarray, np.ndarray]
) -> None:
    published = _run(S3DiffBaseline, BaselineOptions(**TILES), weights, "cuda", Precision.FP16)
    ours = _run(S3DiffOptimized, OptimizedOptions(**TILES), weights, "cuda", Precision.FP16)
    assert np.linalg.norm(ours[1] - reference[1]) <= 1.05 * np.linalg.norm(
        published[1] - reference[1]
    )
    assert _psnr(ours[0], reference[0]) >= 40
    assert _psnr(ours[0], reference[0]) >= _psnr(published[0], reference[0]) - 0.5


def test_the_image_stays_on_the_device(weights: WeightsSource) -> None:
    """Nothing inside the optimized image waits for the host."""
    pipeline = S3DiffOptimized(OptimizedOptions(**TILES))
    pipeline.load(weights, torch.device("cuda"), Precision.FP16)
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
