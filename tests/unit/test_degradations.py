"""The two-order degradation: what is drawn, and what is done to pixels."""

from __future__ import annotations

import io
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.testing import assert_allclose
from PIL import Image
from scipy.fft import dctn, idctn
from scipy.stats import multivariate_normal
from skimage import data

from pipelines.contract import PipelineError
from pipelines.degradations import Plan, Settings, blur_and_noise, degrade, degrade_as_planned, plan
from pipelines.degradations.filtering import filter_pictures
from pipelines.degradations.jpeg import jpeg
from pipelines.degradations.kernels import (
    BlurKernel,
    Kernel,
    Profile,
    SincKernel,
    blur_kernel,
    delta,
    padded,
    sinc_kernel,
)
from pipelines.degradations.levels import MAX_BLUR_SIGMA_PX, gaussian_kernels
from pipelines.degradations.noise import add_noise, gaussian_noise, poisson_noise
from pipelines.degradations.plans import Filter, Noise, NoiseKind, OrderPlan, Resize
from pipelines.tables import overridden

PUBLISHED = Settings()
PLANS = 6000


@pytest.fixture(scope="module")
def photograph() -> torch.Tensor:
    """[1, 3, 128, 128] in [0, 1]: a face with hair, and something red."""
    pixels = np.ascontiguousarray(data.astronaut()[50:178, 160:288])
    return torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255


@pytest.fixture(scope="module")
def plans() -> list[Plan]:
    return [plan(seed, PUBLISHED) for seed in range(PLANS)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(-10 * torch.log10((a - b).square().mean()))


# Settings


def test_published_settings() -> None:
    first, second = PUBLISHED.first, PUBLISHED.second
    assert (first.sigma_range_px, second.sigma_range_px) == ((0.2, 1.5), (0.2, 1.0))
    assert (first.resize_probabilities, first.resize_range) == ((0.2, 0.7, 0.1), (0.3, 1.5))
    assert (second.resize_probabilities, second.resize_range) == ((0.3, 0.4, 0.3), (0.6, 1.2))
    assert (first.gaussian_sigma_range_levels, first.poisson_scale_range) == ((1, 15), (0.05, 2))
    assert (second.gaussian_sigma_range_levels, second.poisson_scale_range) == ((1, 12), (0.05, 1))
    assert (first.jpeg_quality_range, second.jpeg_quality_range) == ((60, 95), (60, 100))
    assert (first.blur_probability, second.blur_probability) == (1, 0.5)


def test_a_table_changes_what_it_names_alone() -> None:
    table = {"scale": 2, "first": {"gray_probability": 1, "sigma_range_px": [0.5, 3]}}
    settings = overridden(PUBLISHED, table, "degradation")
    changed = replace(PUBLISHED.first, gray_probability=1.0, sigma_range_px=(0.5, 3.0))
    assert settings == replace(PUBLISHED, scale=2, first=changed)
    assert overridden(PUBLISHED, {}) == PUBLISHED


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"scal": 4}, r"degradation\.scal: unknown; did you mean scale\?"),
        (
            {"first": {"sigma_px": [1, 2]}},
            r"degradation\.first\.sigma_px: .*did you mean sigma_range_px",
        ),
        ({"first": 3}, r"degradation\.first: expected a table, found 3"),
        ({"scale": 2.5}, r"degradation\.scale: expected a whole number, found 2\.5"),
        ({"scale": True}, "expected a whole number"),
        ({"scale": 0}, r"\[degradation\] scale 0: must be positive"),
        ({"final_sinc_probability": 1.5}, "probabilities are 0 to 1"),
        ({"final_sinc_probability": "0.8"}, "expected a number"),
        ({"kernel_size_range": [7, 20]}, "odd sides"),
        ({"sinc_cutoff_range_rad": [1, 4]}, "at most pi"),
        ({"first": {"resize_range": [0.5]}}, "expected 2 values"),
        ({"first": {"resize_range": [1.5, 0.3]}}, "the lower end, then the higher"),
        ({"first": {"resize_range": [0.3, 0.9]}}, "must contain 1"),
        (
            {"first": {"sigma_range_px": [0, 1]}},
            r"\[degradation\.first\] sigma_range_px .*positive",
        ),
        ({"second": {"resize_probabilities": [0.5, 0.4, 0.3]}}, "add up to 1"),
        ({"second": {"family_probabilities": []}}, "expected 6 numbers, of iso, "),
        ({"second": {"poisson_scale_range": [-1, 1]}}, "must not be negative"),
        ({"second": {"jpeg_quality_range": [0, 101]}}, "qualities are 1 to 100"),
    ],
)
def test_wrong_settings_are_named(table: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message) as caught:
        overridden(PUBLISHED, table, "degradation")
    assert "\n" not in str(caught.value)


def test_settings_and_plans_need_no_torch() -> None:
    code = (
        "import sys; from pipelines.degradations import Settings, plan; plan(0, Settings()); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Plans


def assert_share(hits: Iterable[bool], probability: float) -> None:
    """Within 4.5 standard deviations: about one true claim in 150,000 fails."""
    outcomes = list(hits)
    spread = math.sqrt(probability * (1 - probability) / len(outcomes))
    assert abs(sum(outcomes) / len(outcomes) - probability) < 4.5 * spread


def assert_uniform(values: Iterable[float], low: float, high: float) -> None:
    """Inside, and of the mean and the spread of a uniform distribution."""
    drawn = (np.array(list(values)) - low) / (high - low)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    assert abs(drawn.mean() - 0.5) < 4.5 / math.sqrt(12 * len(drawn))
    assert abs(drawn.var() - 1 / 12) < 4.5 / math.sqrt(180 * len(drawn))


def blurs(kernels: Iterable[Kernel | None]) -> list[BlurKernel]:
    return [kernel for kernel in kernels if isinstance(kernel, BlurKernel)]


def sincs(kernels: Iterable[Kernel | None]) -> list[SincKernel]:
    return [kernel for kernel in kernels if isinstance(kernel, SincKernel)]


def test_kernels_are_drawn_as_published(plans: list[Plan]) -> None:
    assert all(p.first.kernel for p in plans)
    assert_share((p.second.kernel is not None for p in plans), 0.5)
    for drawn, highest in (
        ([p.first.kernel for p in plans], 1.5),
        ([p.second.kernel for p in plans if p.second.kernel], 1.0),
    ):
        elliptic = blurs(drawn)
        assert_share((isinstance(kernel, SincKernel) for kernel in drawn), 0.1)
        families = {
            (Profile.GAUSSIAN, True): 0.45,
            (Profile.GAUSSIAN, False): 0.25,
            (Profile.GENERALIZED, True): 0.12,
            (Profile.GENERALIZED, False): 0.03,
            (Profile.PLATEAU, True): 0.12,
            (Profile.PLATEAU, False): 0.03,
        }
        for family, probability in families.items():
            assert_share(
                ((k.profile, k.sigma_x_px == k.sigma_y_px) == family for k in elliptic), probability
            )
        assert_uniform((k.sigma_x_px for k in elliptic), 0.2, highest)
        anisotropic = [k for k in elliptic if k.sigma_x_px != k.sigma_y_px]
        assert_uniform((k.sigma_y_px for k in anisotropic), 0.2, highest)
        assert_uniform((k.rotation_rad for k in anisotropic), -math.pi, math.pi)
        assert not any(k.rotation_rad for k in elliptic if k.sigma_x_px == k.sigma_y_px)
        for size in range(7, 22, 2):
            assert_share((k is not None and k.size == size for k in drawn), 1 / 8)


def test_exponents_are_half_below_one(plans: list[Plan]) -> None:
    kernels = blurs(p.first.kernel for p in plans)
    assert all(k.beta == 1 for k in kernels if k.profile is Profile.GAUSSIAN)
    flat = [k.beta for k in kernels if k.profile is Profile.GENERALIZED]
    assert_share((beta < 1 for beta in flat), 0.5)
    assert_uniform((beta for beta in flat if beta < 1), 0.5, 1)
    assert_uniform((beta for beta in flat if beta > 1), 1, 2)
    plateau = [k.beta for k in kernels if k.profile is Profile.PLATEAU]
    assert_share((beta == 1 for beta in plateau), 0.5)
    assert_uniform((beta for beta in plateau if beta != 1), 1, 1.5)


def test_sinc_filters_are_drawn_as_published(plans: list[Plan]) -> None:
    drawn = sincs(k for p in plans for k in (p.first.kernel, p.second.kernel))
    assert_uniform((k.cutoff_rad for k in drawn if k.size < 13), math.pi / 3, math.pi)
    assert_uniform((k.cutoff_rad for k in drawn if k.size >= 13), math.pi / 5, math.pi)
    assert min(k.cutoff_rad for k in drawn if k.size == 13) < math.pi / 3
    assert_share((p.final_sinc is not None for p in plans), 0.8)
    final = sincs(p.final_sinc for p in plans)
    assert_uniform((k.cutoff_rad for k in final), math.pi / 3, math.pi)
    assert set(Counter(k.size for k in final)) == set(range(7, 22, 2))


def test_resizing_noise_and_jpeg_are_drawn_as_published(plans: list[Plan]) -> None:
    first, second = [p.first for p in plans], [p.second for p in plans]
    check_resizing(first, (0.2, 0.7, 0.1), (0.3, 1.5))
    check_resizing(second, (0.3, 0.4, 0.3), (0.6, 1.2))
    check_noise(first, 15, 2)
    check_noise(second, 12, 1)
    assert_uniform((o.jpeg_quality for o in first), 60, 95)
    assert_uniform((o.jpeg_quality for o in second), 60, 100)
    assert_share((p.jpeg_last for p in plans), 0.5)
    for kind in Filter:
        assert_share((p.final_filter is kind for p in plans), 1 / 3)
    assert len({p.noise_seed for p in plans}) == PLANS


def check_resizing(
    orders: list[OrderPlan], probabilities: tuple[float, ...], limits: tuple[float, float]
) -> None:
    factors = [o.resize.factor for o in orders]
    assert_share((f > 1 for f in factors), probabilities[0])
    assert_share((f < 1 for f in factors), probabilities[1])
    assert_share((f == 1 for f in factors), probabilities[2])
    assert_uniform((f for f in factors if f > 1), 1, limits[1])
    assert_uniform((f for f in factors if f < 1), limits[0], 1)
    for kind in Filter:
        assert_share((o.resize.filter is kind for o in orders), 1 / 3)


def check_noise(orders: list[OrderPlan], sigma: float, scale: float) -> None:
    assert_share((o.noise.kind is NoiseKind.GAUSSIAN for o in orders), 0.5)
    assert_share((o.noise.gray for o in orders), 0.4)
    of = {kind: [o.noise.strength for o in orders if o.noise.kind is kind] for kind in NoiseKind}
    assert_uniform(of[NoiseKind.GAUSSIAN], 1, sigma)
    assert_uniform(of[NoiseKind.POISSON], 0.05, scale)


def test_a_plan_follows_from_its_seed(plans: list[Plan]) -> None:
    assert plan(17, PUBLISHED) == plans[17]
    assert len(set(plans)) == PLANS


# Kernels


def test_gaussian_is_the_normal_density() -> None:
    rotation, size = 0.6, 15
    kernel = blur_kernel(Profile.GAUSSIAN, size, 2.0, 0.8, rotation)
    turn = np.array([[np.cos(rotation), -np.sin(rotation)], [np.sin(rotation), np.cos(rotation)]])
    density = multivariate_normal(cov=turn @ np.diag([4.0, 0.64]) @ turn.T)
    y, x = np.mgrid[-7:8, -7:8]
    expected = density.pdf(np.stack([x, y], axis=-1))
    assert_allclose(kernel, expected / expected.sum(), atol=1e-12)
    assert (x * y * kernel).sum() > 0.5, "its long axis points to positive x and y"


@pytest.mark.parametrize("beta", [0.5, 0.8, 1.7])
def test_profiles_along_an_axis(beta: float) -> None:
    squared = (np.arange(8) / 1.3) ** 2
    generalized = blur_kernel(Profile.GENERALIZED, 15, 1.3, 1.3, beta=beta)[7, 7:]
    assert_allclose(-2 * np.log(generalized / generalized[0]), squared**beta, atol=1e-9)
    plateau = blur_kernel(Profile.PLATEAU, 15, 1.3, 1.3, beta=beta)[7, 7:]
    assert_allclose(plateau[0] / plateau - 1, squared**beta, atol=1e-9)


def test_generalized_gaussian_of_exponent_one_is_gaussian() -> None:
    assert_allclose(
        blur_kernel(Profile.GENERALIZED, 9, 1.2, 0.5, 1.0),
        blur_kernel(Profile.GAUSSIAN, 9, 1.2, 0.5, 1.0),
    )


def test_every_drawn_kernel_keeps_brightness_and_place(plans: list[Plan]) -> None:
    for its_plan in plans[:500]:
        for kernel in (its_plan.first.kernel, its_plan.second.kernel, its_plan.final_sinc):
            if kernel is None:
                continue
            weights = kernel.weights()
            assert weights.shape == (kernel.size, kernel.size)
            assert_allclose(weights.sum(), 1)
            assert_allclose(weights, weights[::-1, ::-1], atol=1e-12)
            if isinstance(kernel, SincKernel) or kernel.sigma_x_px == kernel.sigma_y_px:
                assert_allclose(weights, weights.T, atol=1e-12)
            if isinstance(kernel, BlurKernel):
                assert weights.min() >= 0


@pytest.mark.parametrize("cutoff", [math.pi / 3, math.pi / 2, 0.8 * math.pi])
def test_sinc_passes_what_is_below_its_cutoff(cutoff: float) -> None:
    response = np.abs(np.fft.fft2(sinc_kernel(21, cutoff), (256, 256)))
    frequency = 2 * np.pi * np.fft.fftfreq(256)
    radius = np.hypot(frequency[:, None], frequency)
    assert response[radius < 0.7 * cutoff].min() > 0.8
    assert response[radius > 1.25 * cutoff].max() < 0.2
    edge = response[np.abs(radius - cutoff) < 0.05].mean()
    assert 0.4 < edge < 0.6, "half passes at the cut-off itself"
    assert sinc_kernel(21, cutoff).min() < 0, "it rings"


def test_padding_keeps_the_middle() -> None:
    kernel = blur_kernel(Profile.GAUSSIAN, 7, 1.0, 1.0)
    wide = padded(kernel, 21)
    assert wide.shape == (21, 21)
    assert_allclose(wide[7:14, 7:14], kernel)
    assert_allclose(wide.sum(), 1)
    assert delta(21)[10, 10] == delta(21).sum() == 1


# Filtering


def test_filtering_is_convolution_with_reflected_borders(photograph: torch.Tensor) -> None:
    pictures = torch.cat([photograph, photograph.flip(-1)])[..., :53, :90]
    kernels = torch.rand(2, 21, 21, generator=generator())
    for index in range(2):
        framed = F.pad(pictures[index], (10,) * 4, mode="reflect")
        expected = F.conv2d(framed[:, None], kernels[index].flip(0, 1)[None, None])[:, 0]
        found = filter_pictures(pictures, kernels)[index]
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=1e-5)


def test_pictures_smaller_than_the_kernel_are_filtered(photograph: torch.Tensor) -> None:
    small = photograph[..., :4, :30]
    kernel = torch.from_numpy(blur_kernel(Profile.GAUSSIAN, 21, 3.0, 3.0)).float()[None]
    blurred = filter_pictures(small, kernel)
    assert blurred.shape == small.shape
    assert blurred.std() < small.std()
    torch.testing.assert_close(
        filter_pictures(torch.full((1, 3, 1, 1), 0.3), kernel), torch.full((1, 3, 1, 1), 0.3)
    )


# JPEG


def libjpeg_tables() -> list[np.ndarray[Any, Any]]:
    """Luma's and chroma's of quality 50, those of the standard as they are."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG", quality=50)
    tables = Image.open(file).quantization
    return [np.array(tables[index], dtype=np.float64).reshape(8, 8) for index in (0, 1)]


def jpeg_by_scipy(picture: torch.Tensor, quality: float) -> np.ndarray[Any, Any]:
    """DiffJPEG of [3, H, W] with sides that are multiples of 16, block by block."""
    red, green, blue = 255 * picture.double().numpy()
    luma = 0.299 * red + 0.587 * green + 0.114 * blue - 128
    luma_table, chroma_table = libjpeg_tables()
    factor = (5000 / quality if quality < 50 else 200 - 2 * quality) / 100
    planes = [(luma, luma_table)]
    for values in (0.564334 * (blue - luma - 128), 0.713267 * (red - luma - 128)):
        halved = values.reshape(values.shape[0] // 2, 2, -1, 2).mean(axis=(1, 3))
        planes.append((halved, chroma_table))
    decoded = []
    for plane, table in planes:
        result = np.empty_like(plane)
        step = table.T * factor
        for top in range(0, plane.shape[0], 8):
            for left in range(0, plane.shape[1], 8):
                block = np.s_[top : top + 8, left : left + 8]
                coefficients = np.rint(dctn(plane[block], norm="ortho") / step) * step
                result[block] = idctn(coefficients, norm="ortho")
        decoded.append(result)
    luma, bluish, reddish = decoded[0] + 128, *(p.repeat(2, 0).repeat(2, 1) for p in decoded[1:])
    rgb = [luma + 1.402 * reddish, luma - 0.344136 * bluish - 0.714136 * reddish]
    return np.stack([*rgb, luma + 1.772 * bluish]).clip(0, 255) / 255


@pytest.mark.parametrize("quality", [20.0, 63.7, 95.0])
def test_jpeg_equals_a_reference_in_float64(photograph: torch.Tensor, quality: float) -> None:
    found = jpeg(photograph, torch.tensor([quality]))[0]
    difference = np.abs(found.numpy() - jpeg_by_scipy(photograph[0], quality))
    # A coefficient half-way between two multiples may fall to either side.
    assert np.quantile(difference, 0.98) < 2e-4
    assert difference.max() < 0.15


@pytest.mark.parametrize(("quality", "least_db"), [(30, 34), (60, 35.5), (75, 36.5), (95, 39.5)])
def test_jpeg_is_near_libjpeg(photograph: torch.Tensor, quality: int, least_db: float) -> None:
    file = io.BytesIO()
    pixels = (255 * photograph[0]).byte().permute(1, 2, 0).numpy()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    real = torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1)[None] / 255
    simulated = jpeg(photograph, torch.tensor([float(quality)]))
    assert psnr(simulated, real) > least_db
    assert psnr(simulated, real) > psnr(photograph, real) + 1
    assert abs(psnr(simulated, photograph) - psnr(real, photograph)) < 1.5


def test_jpeg_has_a_quality_for_each_picture_and_any_size(photograph: torch.Tensor) -> None:
    odd = photograph[..., :37, :50]
    pair = jpeg(torch.cat([odd, odd]), torch.tensor([30.0, 90.0]))
    assert pair.shape == (2, 3, 37, 50)
    for index, quality in enumerate((30.0, 90.0)):
        torch.testing.assert_close(pair[index], jpeg(odd, torch.tensor([quality]))[0])
    assert psnr(pair[:1], odd) + 3 < psnr(pair[1:], odd)


def test_jpeg_of_the_highest_quality_halves_chroma_alone(photograph: torch.Tensor) -> None:
    found = jpeg(photograph, torch.tensor([100.0]))
    assert found.isfinite().all()
    gray = photograph.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    torch.testing.assert_close(jpeg(gray, torch.tensor([100.0])), gray, atol=1e-4, rtol=0)


def test_jpeg_is_not_touched_by_autocast(photograph: torch.Tensor) -> None:
    quality = torch.tensor([80.0])
    with torch.autocast("cpu", torch.bfloat16):
        inside = jpeg(photograph, quality)
    assert torch.equal(inside, jpeg(photograph, quality))


# Noise


@pytest.mark.parametrize("gray", [False, True])
def test_gaussian_noise_has_its_spread(gray: bool) -> None:
    noise = gaussian_noise(torch.zeros(1, 3, 200, 300), 10.0, gray, generator())
    assert noise.shape == (1, 1 if gray else 3, 200, 300)
    assert abs(noise.std() * 255 / 10 - 1) < 0.02
    assert abs(noise.mean()) < 5e-4


def test_poisson_noise_has_the_variance_of_a_count() -> None:
    # 64 values: white counts as 64, so a mean of m has the variance m / 64.
    ramp = (torch.arange(64) / 255 * 4).round(decimals=8)
    between = ramp + 0.3 / 255  # counts are of rounded values, and so is what is subtracted
    picture = between.repeat_interleave(4000).view(1, 1, 64, 4000).expand(1, 3, 64, 4000)
    noise = poisson_noise(picture, 1.5, False, generator())
    assert noise.shape == (1, 3, 64, 4000)
    variance = noise.var(dim=(0, 1, 3))
    torch.testing.assert_close(variance[4:], 1.5**2 * ramp[4:] / 64, rtol=0.06, atol=0)
    assert abs(noise.mean()) < 1e-3
    assert noise[0, :, 0].abs().max() == 0, "black stays black"


@pytest.mark.parametrize(("values", "white"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, 8), (200, 256)])
def test_white_counts_as_a_power_of_two_of_the_values(values: int, white: int) -> None:
    levels = torch.full((4096,), 255.0)
    levels[:values] = torch.arange(256 - values, 256).float()
    noise = poisson_noise(
        (levels / 255).view(1, 1, 64, 64).expand(1, 3, 64, 64), 1, False, generator()
    )
    counts = (noise[0, :, 10:] + 1) * white
    torch.testing.assert_close(counts, counts.round(), atol=1e-3, rtol=0)
    odd = counts.round() % 2 == 1
    assert odd.any(), "a larger power of two would show as even counts only"


def test_gray_poisson_noise_is_that_of_the_luma(photograph: torch.Tensor) -> None:
    noise = poisson_noise(photograph, 1.0, True, generator())
    assert noise.shape == (1, 1, 128, 128)
    noisy = add_noise(photograph, Noise(NoiseKind.POISSON, 0.1, True), generator())
    inside = ((noisy > 0) & (noisy < 1)).all(dim=1)[0]
    change = (noisy - photograph)[0][:, inside]
    assert change.std() > 1e-3
    torch.testing.assert_close(change[0], change[2], atol=1e-5, rtol=0)


def test_noise_is_clamped(photograph: torch.Tensor) -> None:
    for kind, strength in ((NoiseKind.GAUSSIAN, 200.0), (NoiseKind.POISSON, 20.0)):
        noisy = add_noise(photograph * 1.2 - 0.1, Noise(kind, strength, False), generator())
        assert noisy.min() == 0
        assert noisy.max() == 1


# The whole


def test_a_picture_depends_on_its_seed_alone(photograph: torch.Tensor) -> None:
    batch = torch.cat([photograph, photograph.flip(-1), photograph.flip(-2)])
    seeds = [11, 12, 2**62]
    together = degrade(batch, PUBLISHED, seeds)
    turned = degrade(batch.flip(0), PUBLISHED, seeds[::-1]).flip(0)
    assert torch.equal(together, turned)
    for index, seed in enumerate(seeds):
        assert torch.equal(together[index], degrade(batch[[index]], PUBLISHED, [seed])[0])
    strided = batch.contiguous(memory_format=torch.channels_last)
    assert torch.equal(together, degrade(strided, PUBLISHED, seeds))
    same_picture = degrade(photograph.expand(2, -1, -1, -1), PUBLISHED, seeds[:2])
    assert not torch.equal(same_picture[0], same_picture[1])


def test_the_global_generators_are_left_alone(photograph: torch.Tensor) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state(legacy=False)
    degrade(photograph, PUBLISHED, [5])
    assert torch.equal(torch_state, torch.get_rng_state())
    np.testing.assert_equal(np.random.get_state(legacy=False), numpy_state)


@pytest.mark.parametrize(
    ("height", "width", "scale"), [(128, 96, 4), (127, 90, 4), (64, 64, 2), (16, 16, 4), (5, 7, 4)]
)
def test_sizes_and_range(photograph: torch.Tensor, height: int, width: int, scale: int) -> None:
    settings = replace(PUBLISHED, scale=scale)
    hr = photograph[..., :height, :width].expand(12, -1, -1, -1)
    lr = degrade(hr, settings, range(12))
    assert lr.shape == (12, 3, height // scale, width // scale)
    assert lr.dtype == torch.float32
    assert lr.isfinite().all()
    assert lr.min() >= 0
    assert lr.max() <= 1


def test_it_still_shows_the_picture_and_is_not_rounded(photograph: torch.Tensor) -> None:
    lr = degrade(photograph.expand(16, -1, -1, -1), PUBLISHED, range(16))
    reduced = F.interpolate(photograph, size=(32, 32), mode="area").expand(16, -1, -1, -1)
    distance = [psnr(a, b) for a, b in zip(lr, reduced, strict=True)]
    assert 15 < min(distance) < np.median(distance) < 35
    assert (lr * 255 - (lr * 255).round()).abs().max() > 0.1


BLUR = BlurKernel(
    profile=Profile.GAUSSIAN, size=9, sigma_x_px=1.4, sigma_y_px=0.6, rotation_rad=0.7
)
SINC = SincKernel(size=13, cutoff_rad=1.6)
SILENT = Noise(NoiseKind.GAUSSIAN, 0.0, False)


def correlate(picture: torch.Tensor, kernel: Kernel) -> torch.Tensor:
    weights = torch.from_numpy(kernel.weights()).float().expand(3, 1, -1, -1)
    framed = F.pad(picture, (kernel.size // 2,) * 4, mode="reflect")
    return F.conv2d(framed, weights, groups=3)


@pytest.mark.parametrize("jpeg_last", [True, False])
def test_steps_come_in_the_published_order(photograph: torch.Tensor, jpeg_last: bool) -> None:
    its_plan = Plan(
        seed=0,
        first=OrderPlan(BLUR, Resize(0.61, Filter.BICUBIC), SILENT, 70.0),
        second=OrderPlan(SINC, Resize(1.17, Filter.BILINEAR), SILENT, 65.0),
        final_filter=Filter.AREA,
        final_sinc=SINC,
        jpeg_last=jpeg_last,
        noise_seed=1,
    )
    found = degrade_as_planned(photograph, [its_plan], PUBLISHED)

    expected = correlate(photograph, BLUR)
    expected = F.interpolate(expected, scale_factor=0.61, mode="bicubic").clamp(0, 1)
    expected = jpeg(expected, torch.tensor([70.0]))
    expected = correlate(expected, SINC)
    expected = F.interpolate(expected, size=(37, 37), mode="bilinear").clamp(0, 1)

    def resized(picture: torch.Tensor) -> torch.Tensor:
        return correlate(F.interpolate(picture, size=(32, 32), mode="area"), SINC)

    def compressed(picture: torch.Tensor) -> torch.Tensor:
        return jpeg(picture.clamp(0, 1), torch.tensor([65.0]))

    steps: list[Callable[[torch.Tensor], torch.Tensor]] = [compressed, resized]
    for step in reversed(steps) if jpeg_last else steps:
        expected = step(expected)
    assert psnr(found, expected.clamp(0, 1)) > 60
    other = degrade_as_planned(photograph, [replace(its_plan, jpeg_last=not jpeg_last)], PUBLISHED)
    assert psnr(found, other) < 45


def test_both_noises_are_added(photograph: torch.Tensor) -> None:
    quiet = Plan(
        seed=0,
        first=OrderPlan(None, Resize(1.0, Filter.AREA), SILENT, 100.0),
        second=OrderPlan(None, Resize(1.0, Filter.AREA), SILENT, 100.0),
        final_filter=Filter.AREA,
        final_sinc=None,
        jpeg_last=False,
        noise_seed=1,
    )
    gray = photograph.mean(1, keepdim=True).expand(-1, 3, -1, -1) * 0.8 + 0.1
    clean = degrade_as_planned(gray, [quiet], PUBLISHED)
    torch.testing.assert_close(
        clean, F.interpolate(gray, scale_factor=0.25, mode="area"), atol=1e-3, rtol=0
    )
    loud = Noise(NoiseKind.GAUSSIAN, 8.0, True)
    late = replace(quiet, second=replace(quiet.second, noise=loud))
    noise = degrade_as_planned(gray, [late], PUBLISHED) - clean
    assert abs(noise.std() * 255 / 8 - 1) < 0.1
    early = replace(quiet, first=replace(quiet.first, noise=loud))
    noise = degrade_as_planned(gray, [early], PUBLISHED) - clean
    assert abs(noise.std() * 255 / 2 - 1) < 0.1, "16 pixels are averaged after it"


@pytest.mark.parametrize(
    ("hr", "seeds", "message"),
    [
        (torch.zeros(1, 1, 8, 8), [1], "expected float32"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.float64), [1], "expected float32"),
        (torch.zeros(2, 3, 8, 8), [1], "1 seeds for 2 pictures"),
        (torch.zeros(1, 3, 3, 8), [1], "smaller than the scale"),
    ],
)
def test_wrong_batches_are_refused(hr: torch.Tensor, seeds: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        degrade(hr, PUBLISHED, seeds)


# Known levels


def test_known_blur_and_noise() -> None:
    sigmas = torch.tensor([0.0, 0.7, 2.0, MAX_BLUR_SIGMA_PX])
    offsets = torch.arange(-12.0, 13.0)
    spread = (gaussian_kernels(sigmas).sum(1) * offsets**2).sum(1).sqrt()
    torch.testing.assert_close(spread, sigmas, atol=0.02, rtol=0.03)

    flat = torch.full((3, 3, 100, 120), 0.5)
    levels = torch.tensor([0.0, 5.0, 20.0])
    noisy = blur_and_noise(flat, torch.tensor([1.0, 0.0, 3.0]), levels, generator())
    torch.testing.assert_close(noisy.std(dim=(1, 2, 3)) * 255, levels, atol=1e-3, rtol=0.02)


def test_no_blur_and_no_noise_change_nothing(photograph: torch.Tensor) -> None:
    none = torch.zeros(1)
    torch.testing.assert_close(
        blur_and_noise(photograph, none, none, generator()), photograph, atol=1e-5, rtol=0
    )
