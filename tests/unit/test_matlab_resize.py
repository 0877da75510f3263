"""The MATLAB resize against the specification's golden numbers and an independent torch form."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray
from torch.nn import functional

from pipelines.matlab_resize import imresize, output_size, upsample_lr


@pytest.fixture
def golden() -> NDArray[np.uint8]:
    y, x, channel = np.mgrid[:32, :24, :3]
    return np.asarray((7 * y**2 + 13 * x + 29 * channel * (x + y)) % 256, dtype=np.uint8)


def by_torch(image: NDArray[np.float64], scale: Fraction) -> NDArray[np.float64]:
    """Symmetric padding and torch's antialiased bicubic, exact inside of the padding."""
    padding = 2 if scale > 1 else int(2 / scale)
    padded = np.pad(image, ((padding, padding), (padding, padding), (0, 0)), "symmetric")
    planes = torch.from_numpy(padded.transpose(2, 0, 1)[None].copy())
    factor = float(scale)
    resized = functional.interpolate(planes, scale_factor=factor, mode="bicubic", antialias=True)
    cut = int(padding * scale)
    return np.asarray(resized[0, :, cut:-cut, cut:-cut].numpy().transpose(1, 2, 0))


def test_golden_quarter(golden: NDArray[np.uint8]) -> None:
    small = imresize(golden, Fraction(1, 4))
    assert small.shape == (8, 6, 3)
    assert small.dtype == np.uint8
    assert small.sum() == 18149
    assert_array_equal(small[0, 0], [45, 110, 114])
    assert_array_equal(small[3, 2], [139, 127, 116])
    assert_array_equal(small[7, 5], [109, 120, 141])


def test_golden_eighth(golden: NDArray[np.uint8]) -> None:
    small = imresize(golden, 1 / 8)
    assert small.sum() == 4538
    assert_array_equal(small[1, 1], [128, 125, 127])


def test_golden_four_times(golden: NDArray[np.uint8]) -> None:
    large = imresize(imresize(golden, 0.25) / 256, 4)
    assert large.sum() == pytest.approx(1134.3125, abs=1e-9)
    assert_allclose(large[0, 0], [0.10554, 0.400076, 0.42378], atol=5e-7)
    assert_allclose(large[17, 11], [0.499206, 0.490611, 0.533487], atol=5e-7)
    assert_allclose([large.min(), large.max()], [0.10554, 0.771711], atol=5e-7)


def response(length: int, position: int, scale: Fraction) -> NDArray[np.float64]:
    """What an impulse becomes along one side, away from the borders."""
    line = np.zeros((length, length))
    line[position] = 1
    return imresize(line, scale)[:, 0]


def test_taps_of_a_quarter() -> None:
    half = [-0.00171, -0.01099, -0.01831, -0.01196, 0.02271, 0.09741, 0.18188, 0.24097]
    taps = half + half[::-1]
    expected = np.zeros(16)
    for row in range(16):
        tap = 30 - (4 * row - 6)  # row r begins at 4 r - 6
        if 0 <= tap < len(taps):
            expected[row] = taps[tap]
    assert_allclose(response(64, 30, Fraction(1, 4)), expected, atol=5e-6)


def test_taps_of_four_times() -> None:
    phases = [(-0.04395, 0.38965, 0.72754, -0.07324), (-0.00684, 0.09082, 0.96387, -0.04785)]
    phases += [phase[::-1] for phase in phases[::-1]]
    expected = np.zeros(64)
    for phase, weights in enumerate(phases):
        for tap, weight in enumerate(weights):
            # Phases 0 and 1 lie before their sample's centre: their taps begin two before it.
            expected[4 * (8 + (2 if phase < 2 else 1) - tap) + phase] = weight
    assert_allclose(response(16, 8, Fraction(4)), expected, atol=5e-6)


@pytest.mark.parametrize("scale", [Fraction(4), Fraction(1, 4), Fraction(8), Fraction(1, 8)])
def test_equals_padded_antialiased_torch(scale: Fraction) -> None:
    image = np.random.default_rng(3).random((32, 40, 3))
    assert_allclose(imresize(image, scale), by_torch(image, scale), rtol=0, atol=1e-13)


def test_uint8_rounds_each_pass_half_to_even() -> None:
    # Columns (2, 3) and (0, 1) become 2 and 0, these 1; rounded once at the end it were 2.
    assert_array_equal(imresize(np.array([[2, 0], [3, 1]], np.uint8), 0.5), [[1]])
    noise = np.random.default_rng(4).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    rounded_once = np.rint(imresize(noise.astype(np.float64), 0.25).clip(0, 255))
    apart = np.abs(imresize(noise, 0.25) - rounded_once)
    assert apart.max() == 1
    assert 0.05 < (apart != 0).mean() < 0.2


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from([2, 3, 4, 8]), st.booleans())
def test_sides_are_rounded_up_and_a_flat_picture_stays_flat(
    height: int, width: int, factor: int, enlarge: bool
) -> None:
    scale = Fraction(factor) if enlarge else Fraction(1, factor)
    flat = np.full((height, width, 3), 200, np.uint8)
    result = imresize(flat, scale)
    assert result.shape == (-(-height * scale // 1), -(-width * scale // 1), 3)
    assert (result == 200).all()
    assert output_size(height, float(scale)) == result.shape[0]


def test_borders_mirror_and_flips_commute(golden: NDArray[np.uint8]) -> None:
    image = golden.astype(np.float64)
    assert_allclose(imresize(image[::-1, ::-1], 4), imresize(image, 4)[::-1, ::-1], atol=1e-10)
    mirrored = np.concatenate([image[:, ::-1], image, image[:, ::-1]], axis=1)
    assert_allclose(imresize(mirrored, 0.25)[:, 6:12], imresize(image, 0.25), atol=1e-10)


def test_lr_of_a_cropped_picture_is_the_cropped_lr_inside() -> None:
    image = np.random.default_rng(5).integers(0, 256, (45, 50, 3), dtype=np.uint8)
    whole, cropped = imresize(image, 0.25), imresize(image[:40, :48], 0.25)
    assert whole.shape == (12, 13, 3)
    assert_array_equal(whole[:8, :10], cropped[:8, :10])


def test_float_is_not_clipped_and_keeps_its_type() -> None:
    edge = np.zeros((8, 8), np.float32)
    edge[:, 4:] = 1
    large = imresize(edge, 4)
    assert large.dtype == np.float32
    assert large.max() > 1.01
    assert large.min() < -0.01


@pytest.mark.parametrize("divisor", [256, 255])
def test_upsampled_lr_of_white_shows_the_divisor(divisor: int) -> None:
    white = np.full((5, 7, 3), 255, np.uint8)
    up = upsample_lr(white, 4, divisor=divisor)
    assert up.shape == (20, 28, 3)
    assert up.dtype == np.float64
    assert_allclose(up, 2 * 255 / divisor - 1, atol=1e-15)


def test_upsampled_lr_defaults_to_the_published_divisor(golden: NDArray[np.uint8]) -> None:
    small = imresize(golden, Fraction(1, 4))
    assert_allclose(upsample_lr(small, 4), 2 * imresize(small / 256, 4) - 1, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("image", "scale", "message"),
    [
        (np.zeros((4, 4), np.int64), 2, "int64"),
        (np.zeros(4), 2, "shape"),
        (np.zeros((0, 4)), 2, "shape"),
        (np.zeros((4, 4)), 0, "scale 0"),
        (np.zeros((4, 4)), -1.5, "positive"),
    ],
)
def test_bad_arguments_are_named(image: NDArray[np.float64], scale: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        imresize(image, scale)
