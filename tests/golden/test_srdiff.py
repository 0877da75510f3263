"""SRDiff against what the authors' own program computed, and against the specification's numbers.

The first half is float32 on a small network, the second float64 on the two released ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.contract import Precision, WeightsSource
from pipelines.srdiff import SRDiff, schedule
from pipelines.srdiff.baseline import SRDiffBaseline
from pipelines.srdiff.checkpoint import write_checkpoint
from pipelines.srdiff.config import CONFIGS, SCHEDULE_BUFFERS, checkpoint_shapes
from pipelines.srdiff.fast_sampler import FastSampler
from pipelines.srdiff.fast_unet import FastUNet
from pipelines.srdiff.optimized import SRDiffOptimized
from pipelines.srdiff.options import OptimizedOptions
from pipelines.srdiff.pipeline import Inputs
from pipelines.srdiff.rrdb import condition
from pipelines.srdiff.sampling import Noise, reverse, to_picture, to_residual
from pipelines.srdiff.steps import ancestral_steps
from tests.golden.srdiff_recipe import filled_checkpoint, golden_tensors, ramp

Tensor = torch.Tensor
GOLDEN = Path(__file__).parent / "data" / "srdiff_tiny_x4.npz"


@pytest.fixture(scope="module", autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("srdiff") / "tiny_x4.ckpt"
    write_checkpoint(path, golden_tensors(), step=0)
    return path


@pytest.fixture(scope="module")
def model(weights: Path) -> SRDiff:
    return SRDiff.from_checkpoint(weights, hidden_size=16, dim_mults=(1, 2, 2, 4))


@pytest.fixture(scope="module")
def golden() -> dict[str, Tensor]:
    """Arrays of the golden file; pictures as NCHW in [-1, 1], permuted like the authors' own."""
    with np.load(GOLDEN, allow_pickle=False) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file if name != "params"}
    for name in ("lr", "hr"):
        arrays[name] = arrays[name].permute(2, 0, 1)[None].float() / 255 * 2 - 1
    return arrays


def worst(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max())


def test_the_encoder_is_the_authors(model: SRDiff, golden: dict[str, Tensor]) -> None:
    features = model.encode(golden["lr"])
    assert worst(features[-1], golden["feat_last"]) <= 1e-5
    assert worst(model.encoder_picture(features), golden["rrdb_out"]) <= 1e-5


@pytest.mark.parametrize("t", [0, 37, 99])
def test_the_noise_prediction_is_the_authors(
    model: SRDiff, golden: dict[str, Tensor], t: int
) -> None:
    eps = model.predict_noise(golden["x"], t, model.encode(golden["lr"]))
    assert worst(eps, golden[f"eps_t{t}"]) <= 1e-5


def test_a_hundred_steps_end_at_the_authors_picture(
    model: SRDiff, golden: dict[str, Tensor]
) -> None:
    sample = model.sample(golden["lr"], golden["lr_up"], seed=1234)
    assert worst(sample, golden["sample"]) <= 1e-3


@pytest.mark.parametrize("kind", [SRDiffBaseline, SRDiffOptimized])
def test_the_measured_pipelines_end_there_too(
    kind: type[SRDiffBaseline | SRDiffOptimized], weights: Path, golden: dict[str, Tensor]
) -> None:
    """Their `upscale` upsamples the LR picture itself, so they are given the golden one below."""
    pipeline = kind(kind.Options(noise="cpu"))
    source = WeightsSource(weights, "folder", "golden", synthetic=True)
    pipeline.load(source, torch.device("cpu"), Precision.FP32)
    inputs = Inputs(golden["lr"].contiguous(), golden["lr_up"])
    (sample,) = pipeline._sample(inputs, [1234], None)
    assert worst(sample, golden["sample"]) <= 1e-3


def test_the_forward_process_and_the_loss_are_the_authors(
    model: SRDiff, golden: dict[str, Tensor]
) -> None:
    residual = to_residual(golden["hr"], golden["lr_up"])
    noise = torch.from_numpy(np.random.RandomState(103).standard_normal(residual.shape)).float()
    noisy = model.schedule.add_noise(residual, 50, noise)
    assert worst(noisy, golden["q50"]) <= 1e-5
    eps = model.predict_noise(noisy, 50, model.encode(golden["lr"]))
    assert float((noise - eps).abs().mean()) == pytest.approx(float(golden["loss50"]), abs=1e-5)


def test_interpolation_with_reference_indexing_is_the_authors(
    model: SRDiff, golden: dict[str, Tensor]
) -> None:
    found = model.interpolate(
        golden["hr"],
        golden["lr_up"],
        golden["lr"],
        golden["lr_up"],
        t=40,
        weight=0.3,
        indexing="reference",
        seed=1234,
    )
    assert worst(found, golden["interp"]) <= 1e-3


def test_the_schedule_is_the_authors(golden: dict[str, Tensor]) -> None:
    assert worst(schedule.betas(CONFIGS["df2k-x4"]).float(), golden["betas"]) <= 1e-7


SCHEDULE_AT = (0, 1, 2, 10, 25, 50, 75, 90, 98, 99)
SCHEDULE = {
    "betas": "6.31282e-4 1.11694e-3 1.6029e-3 5.53037e-3 0.0134491 0.0315463 0.0747012 0.188751 "
    "0.749939 0.999",
    "alphas_cumprod": "0.999369 0.998253 0.996652 0.966717 0.835621 0.478265 0.133495 0.0195444 "
    "2.42857e-4 2.42857e-7",
    "sqrt_recip_alphas_cumprod": "1.00032 1.00087 1.00168 1.01707 1.09394 1.44599 2.73696 7.15301 "
    "64.1689 2029.20",
    "sqrt_recipm1_alphas_cumprod": "0.0251333 0.0418398 0.0579556 0.185551 0.443526 1.04446 "
    "2.54773 7.08277 64.1611 2029.20",
    "posterior_mean_coef1": "1 0.638956 0.4784 0.163826 0.0752995 0.0424907 0.0327452 0.0298811 "
    "0.0233768 0.0155683",
    "posterior_mean_coef2": "0 0.361044 0.521599 0.836155 0.92442 0.954715 0.94996 0.896516 "
    "0.499696 0.0316151",
    "posterior_variance": "0 4.03489e-4 8.36742e-4 4.63709e-3 0.0125171 0.0306044 0.073772 "
    "0.187876 0.749393 0.998758",
}


@pytest.mark.parametrize("table", SCHEDULE)
def test_schedule_tables(table: str) -> None:
    """The specification prints six digits."""
    found = schedule.buffers(schedule.betas(CONFIGS["df2k-x4"]))[table][list(SCHEDULE_AT)]
    assert found.tolist() == pytest.approx([float(v) for v in SCHEDULE[table].split()], rel=5e-6)


@dataclass(frozen=True, slots=True)
class Vector:
    """Float64 numbers of the specification, section 2.

    Attributes:
        config: Name of the network.
        size: Of the LR picture.
        means: Of named results.
        firsts: Their first values.
        chain_is_fast: Sampled by the fast sampler instead of the published one.
    """

    config: str
    size: tuple[int, int]
    chain_is_fast: bool
    means: dict[str, float]
    firsts: dict[str, tuple[float, ...]] = field(default_factory=dict)


VECTORS = (
    Vector(
        config="df2k-x4",
        size=(12, 8),
        chain_is_fast=False,
        means={
            "encoder_picture": -0.81316542,
            "feature_2": -0.10377543,
            "feature_8": 0.01595160,
            "cond_proj": -0.00481406,
            "time": 0.05629094,
            "eps": -0.40151568,
            "residual": 0.42912841,
            "picture": 0.21684738,
            "loss": 0.97733451,
        },
        firsts={
            "encoder_picture": (-0.60883955,),
            "feature_2": (-0.93911582,),
            "cond_proj": (0.0372236,),
            "time": (0.49937546, -0.8230095, -0.29449303, -0.98561799),
            "eps": (-0.18985381, 0.17746304, 0.20397843, -0.316291),
            "picture": (0.74008482, 0.26824582, 0.45474926, 0.12475252),
        },
    ),
    Vector(
        config="celeba-x8",
        size=(6, 4),
        chain_is_fast=True,
        means={
            "encoder_picture": -0.62853499,
            "feature_8": 0.10889821,
            "cond_proj": -0.00186159,
            "eps": -0.36068804,
            "picture": 0.22213766,
            "loss": 0.96580474,
        },
        firsts={
            "cond_proj": (-0.02902174,),
            "eps": (-0.2630766, 0.49545849, 0.34449233, -0.04826861),
        },
    ),
)
STANDARD_DEVIATIONS = {"feature_8": 2.39377841, "eps": 0.66129779, "residual": 0.81748248}
EPS_ENDS = (-1.09914751, 0.04359685)


class _Silence(Noise):
    """The specification's chain adds no noise."""

    def draw(self) -> Tensor:
        return torch.zeros_like(self._like)

    def fill(self, out: Tensor) -> None:
        out.zero_()


def _results(vector: Vector) -> dict[str, Tensor]:
    config = CONFIGS[vector.config]
    model = SRDiff(filled_checkpoint(config), dtype=torch.float64)
    hr_size = tuple(side * config.scale for side in vector.size)
    scales = ((vector.size, 1.0), (hr_size, 0.5), (hr_size, 1.7), (hr_size, 1.0), (hr_size, 1.7))
    lr, lr_up, x, hr, noise = (
        torch.from_numpy(ramp((1, 3, *size), length, scale))
        for length, (size, scale) in enumerate(scales)
    )
    features = model.encode(lr)
    unet = model.unet
    noisy = model.schedule.add_noise(to_residual(hr, lr_up), 37, noise)
    found = {
        "encoder_picture": model.encoder_picture(features),
        "feature_2": features[2],
        "feature_8": features[8],
        "cond_proj": unet.cond_proj(condition(features)),
        "time": unet.mlp(unet.time_embedding(torch.tensor([37]), torch.float64)),
        "eps": model.predict_noise(x, 37, features),
        "loss": (noise - model.predict_noise(noisy, 37, features)).abs().mean(),
    }
    if vector.chain_is_fast:
        steps = ancestral_steps(model.schedule)
        fast = FastUNet(unet, steps.timesteps, OptimizedOptions(), torch.float64)
        sampler = FastSampler(fast, steps, fused=True)
        found["residual"] = sampler.sample(x.clone(), condition(features), [_Silence(0, x)], None)
    else:
        found["residual"] = reverse(
            model.schedule, x, 99, lambda x, t: model.predict_noise(x, t, features), _Silence(0, x)
        )
    return found | {"picture": to_picture(found["residual"], lr_up)}


@pytest.mark.parametrize(
    "vector",
    [
        pytest.param(
            vector, id=vector.config, marks=pytest.mark.full if vector.chain_is_fast else ()
        )
        for vector in VECTORS
    ],
)
def test_released_networks_give_the_specified_numbers(vector: Vector) -> None:
    found = _results(vector)
    means = {name: float(found[name].mean()) for name in vector.means}
    assert means == pytest.approx(vector.means, rel=0, abs=1e-7)
    for name, wanted in vector.firsts.items():
        first = found[name].flatten()[: len(wanted)].tolist()
        assert first == pytest.approx(wanted, rel=0, abs=1e-7), name
    if vector.config == "df2k-x4":
        spreads = {name: float(found[name].std(correction=0)) for name in STANDARD_DEVIATIONS}
        assert spreads == pytest.approx(STANDARD_DEVIATIONS, rel=0, abs=1e-7)
        assert found["eps"].flatten()[-2:].tolist() == pytest.approx(EPS_ENDS, rel=0, abs=1e-7)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("df2k-x4", 13_234_022), ("celeba-x8", 12_033_798), ("paper-x4", 12_367_046)],
)
def test_networks_have_the_published_sizes(name: str, parameters: int) -> None:
    shapes = checkpoint_shapes(CONFIGS[name])
    learned = {key: shape for key, shape in shapes.items() if key not in SCHEDULE_BUFFERS}
    assert sum(int(np.prod(shape)) for shape in learned.values()) == parameters
    if name == "df2k-x4":
        assert (len(shapes), len(learned)) == (396, 384)


def test_the_small_network_is_the_golden_one() -> None:
    """Two values of the authors' file; the outputs above rest on all of them."""
    tensors = golden_tensors()
    assert len(tensors) == 394
    assert sum(tensor.numel() for tensor in tensors.values()) == 2_141_110
    first = tensors["denoise_fn.mlp.0.weight"][0, :2].tolist()
    assert first == [-0.2621762752532959, -0.2667882740497589]
