"""The Triton kernels against their references in float64."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pipelines.kernels import (
    blocks,
    reference,
    triton_color,
    triton_lora,
    triton_norm,
    triton_pointwise,
    triton_small_norm,
)

Tensor = torch.Tensor
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
# Every group size of the published networks and of `mini`; widths that fill blocks and not.
SHAPES = [
    ((2, 64, 7, 9), 2),
    ((1, 128, 9, 13), 4),
    ((1, 320, 5, 3), 4),
    ((1, 4, 5, 7), 4),
    ((1, 8, 1, 5), 4),
    *(((1, 2 * size, 3, 5), 2) for size in (4, 8, 10, 16, 20, 30, 40, 60)),
]


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


def feature_map(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return draw(*shape, seed=seed, dtype=dtype).contiguous(memory_format=torch.channels_last)


def agree(got: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    tight = {torch.float32: (2e-6, 2e-5), torch.float16: (6e-4, 6e-4)}
    relative, absolute = tight[dtype]
    torch.testing.assert_close(got.double(), wanted.double(), rtol=relative, atol=absolute)


def wide(*tensors: Tensor | None) -> list[Any]:
    return [None if t is None else t.double() for t in tensors]


@pytest.fixture
def many_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small inputs walk through loops that otherwise take megapixels."""
    monkeypatch.setattr(blocks, "_PROGRAMS", 2)
    monkeypatch.setattr(blocks, "_ELEMENTS", 512)
    monkeypatch.setattr(triton_norm, "_FEW_MOMENTS", 8)
    monkeypatch.setattr(triton_norm, "_MANY_MOMENTS", 16)


@pytest.mark.parametrize(("shape", "groups"), SHAPES)
def test_statistics(shape: tuple[int, ...], groups: int) -> None:
    x = 3 * feature_map(*shape, dtype=torch.float16) + 5
    shift = draw(shape[1], seed=1)
    got = triton_norm.group_statistics(x, groups, shift)
    assert got.dtype == torch.float32
    agree(got, reference.group_statistics(x.double(), groups, shift.double()), torch.float32)


@pytest.mark.usefixtures("many_steps")
@pytest.mark.parametrize("size", [(1, 1), (16, 4), (23, 17)])
def test_statistics_of_many_chunks(size: tuple[int, int]) -> None:
    x = feature_map(2, 64, *size, dtype=torch.float16)
    got = triton_norm.group_statistics(x, 4)
    agree(got, reference.group_statistics(x.double(), 4), torch.float32)


@pytest.mark.usefixtures("many_steps")
def test_variance_beyond_fp16() -> None:
    x = 2000 * feature_map(1, 32, 12, 11, dtype=torch.float16)
    got = triton_norm.group_statistics(x, 2)
    assert got[..., 1].min() > 65504
    wanted = reference.group_statistics(x.double(), 2)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-2)


@pytest.mark.usefixtures("many_steps")
def test_small_variance_around_a_large_mean() -> None:
    x = 1000 + 0.01 * feature_map(1, 32, 15, 30)
    got = triton_norm.group_statistics(x, 2)
    wanted = reference.group_statistics(x.double(), 2)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-3, atol=0)


@DTYPES
@pytest.mark.parametrize(("shape", "groups"), SHAPES[:3])
@pytest.mark.parametrize("shifted", [True, False])
def test_normalize(shape: tuple[int, ...], groups: int, shifted: bool, dtype: torch.dtype) -> None:
    x = feature_map(*shape, dtype=dtype)
    weight, bias, shift = (draw(shape[1], seed=s, dtype=dtype) for s in (1, 2, 3))
    bias_before = shift if shifted else None
    statistics = draw(shape[0], groups, 2, seed=4)
    statistics[..., 1].abs_()
    for given in (statistics, statistics[:1]):
        got = triton_norm.group_normalize(x, given, weight, bias, 1e-5, bias_before, shifted)
        x64, given64, weight64, bias64, before64 = wide(x, given, weight, bias, bias_before)
        wanted = reference.group_normalize(x64, given64, weight64, bias64, 1e-5, before64, shifted)
        agree(got, wanted, dtype)
        assert (got.dtype, got.stride()) == (dtype, x.stride())


@pytest.mark.usefixtures("many_steps")
def test_normalize_in_many_steps() -> None:
    x = feature_map(2, 64, 23, 17, dtype=torch.float16)
    weight, bias, shift = (draw(64, seed=s) for s in (1, 2, 3))
    statistics = reference.group_statistics(x, 16, shift)
    got = triton_norm.group_normalize(x, statistics, weight, bias, 1e-5, shift)
    wanted = reference.group_norm(
        x.double(), 16, weight.double(), bias.double(), 1e-5, shift.double()
    )
    agree(got, wanted, torch.float16)


@DTYPES
@pytest.mark.parametrize("held", [0, 16384])
@pytest.mark.parametrize(("shape", "groups"), SHAPES[:3])
def test_group_norm_in_one_launch_and_in_three(
    shape: tuple[int, ...],
    groups: int,
    held: int,
    dtype: torch.dtype,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triton_small_norm, "_REGISTER_ENTRIES", held)
    x = 2 * feature_map(*shape, dtype=dtype) - 1
    weight, bias, shift = (draw(shape[1], seed=s) for s in (1, 2, 3))
    got = triton_small_norm.group_norm(x, groups, weight, bias, 1e-5, shift)
    x64, weight64, bias64, shift64 = wide(x, weight, bias, shift)
    agree(got, reference.group_norm(x64, groups, weight64, bias64, 1e-5, shift64), dtype)
    assert got.stride() == x.stride()
    plain = triton_small_norm.group_norm(x, groups, weight, bias, 1e-5, None, False)
    agree(plain, reference.group_norm(x64, groups, weight64, bias64, 1e-5, None, False), dtype)


@DTYPES
@pytest.mark.parametrize("shape", [(1, 3, 5, 7), (2, 64, 9, 5), (2, 320, 3, 5)])
def test_residual(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, residual = (feature_map(*shape, seed=s, dtype=dtype) for s in (0, 1))
    for shift in (None, draw(shape[1], seed=2, dtype=dtype)):
        got = triton_pointwise.add_residual(x, residual, shift)
        agree(got, reference.add_residual(*wide(x, residual, shift)), dtype)
        assert (got.dtype, got.stride()) == (dtype, x.stride())


@pytest.mark.usefixtures("many_steps")
def test_residual_in_many_steps() -> None:
    x, residual = (feature_map(2, 64, 11, 9, seed=s) for s in (0, 1))
    got = triton_pointwise.add_residual(x, residual)
    assert torch.equal(got, x + residual)


@DTYPES
@pytest.mark.parametrize("shape", [(1, 2), (3, 5, 14), (9, 640), (2, 3, 2560)])
def test_geglu(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = 2 * draw(*shape, dtype=dtype)
    got = triton_pointwise.geglu(x)
    assert got.dtype == dtype
    agree(got, reference.geglu(x.double()), dtype)


@pytest.mark.parametrize(
    ("height", "width"), [(16, 17), (40, 62), (63, 64), (65, 130), (31, 300), (330, 20)]
)
def test_color_fix(height: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    output = torch.rand(3, height + 4, width + 5, generator=generator)[:, 2:-2, :width]
    source = torch.rand(3, height, width, generator=generator)
    got = triton_color.wavelet_color_fix(output, source)
    torch.testing.assert_close(got, reference.wavelet_color_fix(output, source))


def test_color_fix_keeps_equal_images_to_the_bit() -> None:
    """And with any strides: the second image is in NHWC memory."""
    levels = (torch.arange(3 * 40 * 30) % 256).view(3, 40, 30) / 255
    other = levels.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    assert torch.equal(triton_color.wavelet_color_fix(levels, other), levels)


@DTYPES
@pytest.mark.parametrize("rank", [4, 16, 32])
@pytest.mark.parametrize("shape", [(1, 4, 36), (3, 33, 130), (2, 48, 257)])
def test_merge_lora(shape: tuple[int, int, int], rank: int, dtype: torch.dtype) -> None:
    layers, outputs, inputs = shape
    master = draw(*shape)
    mixed = draw(layers, outputs, rank, seed=1)
    down = draw(layers, rank, inputs, seed=2)
    out = torch.full(shape, torch.nan, dtype=dtype)
    triton_lora.merge_lora(master, mixed, down, 0.25, out)
    agree(out, master.double() + 0.25 * mixed.double() @ down.double(), dtype)


def _norm() -> Tensor:
    x = feature_map(2, 64, 23, 17, dtype=torch.float16)
    return triton_norm.group_statistics(x, 4)


def _color() -> Tensor:
    return triton_color.wavelet_color_fix(draw(3, 40, 70).sigmoid(), torch.zeros(3, 40, 70))


@pytest.mark.usefixtures("many_steps")
@pytest.mark.parametrize("compute", [_norm, _color])
def test_equal_inputs_give_equal_bits(compute: Callable[[], Tensor]) -> None:
    assert torch.equal(compute(), compute())
