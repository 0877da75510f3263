"""The Triton kernels of SRDiff against plain PyTorch in float64."""

from itertools import product

import pytest
import torch

from pipelines.kernels import layouts, triton_diffusion, triton_mish
from tests.unit.test_kernels_srdiff import (
    SCHEDULE,
    SHAPES,
    Tensor,
    column,
    draw,
    feature_map,
    mish_pad_calls,
    plain_mish_pad,
    plain_step,
    reflected,
    step_arguments,
)

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
TOLERANCE = {torch.float32: (2e-6, 2e-6), torch.float16: (2**-11, 2e-6)}


def agree(got: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    relative, absolute = TOLERANCE[dtype]
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), wanted, rtol=relative, atol=absolute)


@DTYPES
@pytest.mark.parametrize("shape", SHAPES)
def test_mish_pad(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    for call in mish_pad_calls(shape, dtype):
        assert layouts.mish_fits(**call)
        got = triton_mish.mish_pad(**call)
        agree(got, plain_mish_pad(**call), dtype)
        assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got, triton_mish.mish_pad(**call))


@pytest.mark.parametrize("enough", [0, 10**9])
def test_blocks_of_both_sizes(enough: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several blocks along pixels and channels, that begin and end in the middle of a row."""
    monkeypatch.setattr(triton_mish, "_ENOUGH", enough)
    x = feature_map(2, 192, 7, 9, dtype=torch.float16)
    residual = reflected(feature_map(2, 192, 7, 9, seed=1, dtype=torch.float16))
    agree(triton_mish.mish_pad(x, None, residual), plain_mish_pad(x, None, residual), x.dtype)


@DTYPES
def test_mish_far_from_zero(dtype: torch.dtype) -> None:
    magnitudes = torch.tensor([0.0, 1e-4, 1.0, 5.0, 12.0, 19.9, 20.1, 50.0, 88.0, 1e3, 3e4])
    x = torch.cat((magnitudes, -magnitudes)).to(dtype)[:, None, None, None].expand(-1, 1, 2, 2)
    x = x.contiguous(memory_format=torch.channels_last)
    agree(triton_mish.mish_pad(x), plain_mish_pad(x), dtype)
    assert triton_mish.mish_pad(torch.full_like(x, torch.nan)).isnan().all()


@DTYPES
@pytest.mark.parametrize(
    ("channels", "skip_channels"), [(3, 5), (64, 64), (192, 64), (256, 192), (128, 20)]
)
def test_pad_concat(channels: int, skip_channels: int, dtype: torch.dtype) -> None:
    x = feature_map(2, channels, 3, 5, dtype=dtype)
    skip = feature_map(2, skip_channels, 5, 7, seed=1, dtype=dtype)
    for bias in (None, draw(channels, seed=2, dtype=torch.float32)):
        assert layouts.concat_fits(x, bias, skip)
        got = triton_mish.pad_concat(x, bias, skip)
        plain = x.double() if bias is None else x.double() + column(bias)
        agree(got, torch.cat((reflected(plain), skip.double()), dim=1), dtype)
        assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(got, triton_mish.pad_concat(x, bias, skip))


@pytest.mark.parametrize("nhwc", list(product((False, True), repeat=3)))
@pytest.mark.parametrize("eps_dtype", [torch.float16, torch.float32, torch.bfloat16])
def test_diffusion_step(eps_dtype: torch.dtype, nhwc: tuple[bool, bool, bool]) -> None:
    for step, biased in product(range(3), (True, False)):
        x, eps, bias, *rest = step_arguments(torch.float32, eps_dtype, nhwc, step)
        given = bias if biased else None
        assert layouts.step_fits(x, eps, given, *rest)
        wanted = plain_step(x, eps, given, rest[0], SCHEDULE[step])
        triton_diffusion.diffusion_step(x, eps, given, *rest)
        # At t = 99 products of thousands lose 1e-4; 0.0156 of that remains.
        torch.testing.assert_close(x.double(), wanted, rtol=1e-6, atol=1e-5)


def test_a_prediction_that_is_not_a_number_shows() -> None:
    x, eps, bias, *rest = step_arguments(torch.float32, torch.float16, (True,) * 3, 1)
    eps[0, 0, 0, 0] = torch.nan
    triton_diffusion.diffusion_step(x, eps, bias, *rest)
    assert x.isnan().nonzero().tolist() == [[0, 0, 0, 0]]


def test_blocks_of_a_larger_image() -> None:
    x, eps, noise = (draw(1, 3, 31, 29, seed=s, dtype=torch.float32) for s in range(3))
    wanted = plain_step(x, eps, None, noise, SCHEDULE[1])
    table = torch.tensor(SCHEDULE)
    triton_diffusion.diffusion_step(x, eps, None, noise, table, torch.tensor([1]))
    torch.testing.assert_close(x.double(), wanted, rtol=1e-6, atol=1e-6)
