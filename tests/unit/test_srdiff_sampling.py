"""Steps of the samplers, their noise, and what is diffused."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pipelines.contract import PipelineError
from pipelines.srdiff import SRDiff, schedule
from pipelines.srdiff.checkpoint import from_tensors
from pipelines.srdiff.config import Config
from pipelines.srdiff.sampling import Noise, estimate_x0, to_levels, to_picture, to_residual
from pipelines.srdiff.schedule import Schedule
from pipelines.srdiff.steps import Steps, ancestral_steps, ddim_steps
from tests.golden.srdiff_recipe import golden_tensors

Tensor = torch.Tensor
SMALL = Config(hidden_size=8, dim_mults=(1, 2, 2, 4), rrdb_features=8, rrdb_blocks=2, timesteps=10)
TABLES = schedule.buffers(schedule.betas(Config()))


@pytest.fixture(scope="module", autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


@pytest.fixture(scope="module")
def model() -> SRDiff:
    return SRDiff(from_tensors(SMALL, golden_tensors(SMALL)))


@pytest.fixture(scope="module")
def full() -> Schedule:
    """The published hundred steps in float64."""
    return Schedule.from_buffers(TABLES, torch.float64)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_ancestral_steps_visit_every_timestep_with_the_published_posterior(full: Schedule) -> None:
    steps = ancestral_steps(full)
    assert steps.timesteps.tolist() == list(range(99, -1, -1))
    assert steps.coefficients.shape == (100, 5)
    x, eps, z = (drawn(1, 3, 4, 4, seed=s).double() for s in range(3))
    for t in (99, 50, 1, 0):
        c = steps.coefficients[99 - t]
        x0 = (c[0] * x - c[1] * eps).clamp(-1, 1)
        assert torch.equal(x0, estimate_x0(full, x, t, eps))
        mean = TABLES["posterior_mean_coef1"][t] * x0 + TABLES["posterior_mean_coef2"][t] * x
        noise = (0.5 * TABLES["posterior_log_variance_clipped"][t].double()).exp() * z * (t > 0)
        assert torch.allclose(c[2] * x0 + c[3] * x + c[4] * z, mean + noise, rtol=0, atol=1e-12)


def test_ddim_with_all_steps_and_eta_1_is_ancestral(full: Schedule) -> None:
    """But for the rounding of the schedule to float32, which 1 - alpha-bar magnifies at t = 0."""
    ddim, ancestral = ddim_steps(full, 100, 1.0), ancestral_steps(full)
    assert torch.equal(ddim.timesteps, ancestral.timesteps)
    assert torch.allclose(ddim.coefficients, ancestral.coefficients, rtol=1e-6, atol=5e-5)


def naive_ddim(kept: list[float], t: int, before: float, eta: float, x: Tensor, eps: Tensor) -> Any:
    """Song et al. 2021, equations 12 and 16, with x0 clamped and the noise that it leaves."""
    x0 = ((x - math.sqrt(1 - kept[t]) * eps) / math.sqrt(kept[t])).clamp(-1, 1)
    towards = (x - math.sqrt(kept[t]) * x0) / math.sqrt(1 - kept[t])
    sigma = eta * math.sqrt((1 - before) / (1 - kept[t])) * math.sqrt(1 - kept[t] / before)
    mean = math.sqrt(before) * x0 + math.sqrt(max(1 - before - sigma**2, 0)) * towards
    return mean, sigma


@pytest.mark.parametrize("count", [1, 2, 20, 33])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_ddim_coefficients(full: Schedule, count: int, eta: float) -> None:
    steps = ddim_steps(full, count, eta)
    visited = steps.timesteps.tolist()
    assert len(visited) == count
    assert visited[0] == 99
    assert count == 1 or visited[-1] == 0
    assert visited == sorted(set(visited), reverse=True)
    kept = full.signal.square().tolist()
    x, eps = drawn(1, 3, 4, 4).double(), drawn(1, 3, 4, 4, seed=1).double()
    for row, t in enumerate(visited):
        before = kept[visited[row + 1]] if row + 1 < count else 1.0
        mean, sigma = naive_ddim(kept, t, before, eta, x, eps)
        c = steps.coefficients[row].tolist()
        x0 = (c[0] * x - c[1] * eps).clamp(-1, 1)
        assert torch.allclose(c[2] * x0 + c[3] * x, mean, rtol=0, atol=1e-9)
        assert c[4] == pytest.approx(sigma, abs=1e-9)


def test_the_last_step_of_every_sampler_gives_x0_without_noise(full: Schedule) -> None:
    """So the noise of the last step needs not be drawn, and residuals end within [-1, 1]."""
    samplers: list[Steps] = [ancestral_steps(full), ddim_steps(full, 7, 1.0)]
    for steps in samplers:
        assert steps.coefficients[-1, 2:].tolist() == pytest.approx([1, 0, 0], abs=1e-6)
        assert steps.coefficients[-1, 4] == 0


def test_steps_of_a_few_are_evenly_spaced(full: Schedule) -> None:
    gaps = ddim_steps(full, 12, 0.0).timesteps.diff().abs()
    assert gaps.max() - gaps.min() <= 1


def test_noise_is_drawn_in_the_published_order() -> None:
    like = torch.empty(1, 3, 6, 5)
    torch.manual_seed(77)
    first, second = torch.randn(1, 3, 6, 5), torch.randn(1, 3, 6, 5)
    noise = Noise(77, like)
    assert torch.equal(noise.draw(), first)
    filled = torch.empty(1, 3, 6, 5)
    noise.fill(filled)
    assert torch.equal(filled, second)
    wide = torch.empty(1, 3, 6, 5, dtype=torch.float64)
    noise = Noise(77, wide)
    noise.fill(wide)
    assert torch.equal(wide, first.double())


def test_noise_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    Noise(77, torch.empty(1, 3, 6, 5)).draw()
    assert torch.equal(torch.randn(3), expected)


def test_noise_like_a_picture_follows_its_memory_layout() -> None:
    picture = torch.zeros(6, 5, 3).permute(2, 0, 1)[None]
    torch.manual_seed(77)
    assert torch.equal(Noise(77, picture).draw_like(picture), torch.randn_like(picture))


def test_samples_repeat_with_their_seed_and_only_with_it(model: SRDiff) -> None:
    lr, lr_up = drawn(1, 3, 4, 6).clamp(-1, 1), drawn(1, 3, 16, 24, seed=1).clamp(-1, 1)
    first = model.sample(lr, lr_up, seed=3)
    assert torch.equal(model.sample(lr, lr_up, seed=3), first)
    assert not torch.equal(model.sample(lr, lr_up, seed=4), first)
    assert first.shape == lr_up.shape
    assert float((first - lr_up).abs().max()) <= 0.5 + 1e-6


def test_samples_of_one_picture_differ(model: SRDiff) -> None:
    lr, lr_up = drawn(1, 3, 4, 6), drawn(1, 3, 16, 24, seed=1)
    several = model.sample(lr, lr_up, samples=3)
    assert several.shape == (3, 3, 16, 24)
    assert (several[0] - several[1]).abs().max() > 0.1
    with pytest.raises(PipelineError, match="of one picture at a time, not 2"):
        model.sample(lr.expand(2, -1, -1, -1), lr_up.expand(2, -1, -1, -1), samples=2)


def test_the_steps_can_be_watched(model: SRDiff) -> None:
    lr, lr_up = drawn(1, 3, 4, 6), drawn(1, 3, 16, 24, seed=1)
    seen: list[tuple[int, Tensor, Tensor]] = []
    end = model.sample(lr, lr_up, seed=3, watch=lambda *step: seen.append(step))
    assert [t for t, _, _ in seen] == list(range(9, -1, -1))
    assert torch.equal(seen[0][1], Noise(3, lr_up).draw())
    assert all(float(x0.abs().max()) <= 1 for _, _, x0 in seen)
    assert torch.allclose(to_picture(seen[-1][2], lr_up), end, rtol=0, atol=1e-6)


def test_residuals_are_doubled_and_cut_at_half_the_range() -> None:
    up = torch.tensor([0.0, 0.2, 0.9, -0.9])
    hr = torch.tensor([0.3, 0.1, -0.9, 0.9])
    residual = to_residual(hr, up)
    assert residual.tolist() == pytest.approx([0.6, -0.2, -1, 1])
    assert to_picture(residual, up).tolist() == pytest.approx([0.3, 0.1, 0.4, -0.4])
    assert to_picture(torch.tensor([3.0]), torch.tensor([0.9])).tolist() == pytest.approx([1.4])


def test_levels_are_rounded_as_published() -> None:
    values = torch.tensor([-1.2, -1.0, -0.5, 0.0, 1.0, 1.3]).reshape(1, 1, 1, 6).expand(1, 3, 1, 6)
    levels = to_levels(values)
    assert levels.shape == (1, 1, 6, 3)
    assert levels[0, 0, :, 0].tolist() == [0, 0, 64, 128, 255, 255]


@pytest.mark.parametrize("size", [(16, 20), (12, 16), (8, 8)])
def test_sides_that_cannot_be_halved_are_refused(model: SRDiff, size: tuple[int, int]) -> None:
    features = model.encode(drawn(1, 3, 4, 4))
    with pytest.raises(PipelineError, match="multiples of 8 and at least 16"):
        model.predict_noise(torch.zeros(1, 3, *size), 3, features)


def test_timesteps_may_differ_within_a_batch(model: SRDiff) -> None:
    features = model.encode(drawn(1, 3, 4, 4).double().float())
    x = drawn(2, 3, 16, 16)
    both = model.predict_noise(x, torch.tensor([9, 2]), features)
    for index, t in enumerate((9, 2)):
        alone = model.predict_noise(x[index : index + 1], t, features)
        assert torch.allclose(both[index : index + 1], alone, rtol=0, atol=1e-5)


def test_the_linear_schedule_ends_in_noise() -> None:
    linear = schedule.betas(Config(schedule="linear"))
    assert linear[[0, -2, -1]].tolist() == pytest.approx([1e-4, 0.0197989899, 0.999])
