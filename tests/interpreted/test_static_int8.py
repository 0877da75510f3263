"""The kernels of static int8 against their references, bit by bit."""

import pytest
import torch

from pipelines.kernels import (
    blocks,
    fp8,
    product_plan,
    reference,
    static_int8,
    static_int8_reference,
    triton_codes,
    triton_norm_codes,
    triton_small_norm,
    triton_static_int8,
)

Tensor = torch.Tensor


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype)


def feature_map(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return draw(*shape, seed=seed, dtype=dtype).contiguous(memory_format=torch.channels_last)


def integers(*shape: int, low: int, high: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(low, high + 1, shape, generator=generator)


def quantizer_of(channels: int, seed: int = 5) -> Tensor:
    """Steps around a fortieth of the spread: some values are clipped."""
    multiplier = 40 * (1 + 0.3 * draw(channels, seed=seed).clamp(-1, 1))
    zero = torch.full((channels,), -90.0)
    return torch.stack([multiplier, 0.1 * draw(channels, seed=seed + 1), zero])


def differ(got: Tensor, wanted: Tensor) -> float:
    """Share of the codes that are not equal; none is off by more than one."""
    assert got.dtype == wanted.dtype == torch.int8
    assert got.stride() == wanted.stride()
    distance = (got.int() - wanted.int()).abs()
    assert distance.max() <= 1
    return float((distance > 0).float().mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(1, 8), (5, 7, 40), (33, 320)])
@pytest.mark.parametrize("levels", [255, 63])
def test_codes(shape: tuple[int, ...], levels: int, dtype: torch.dtype) -> None:
    x = draw(*shape, dtype=dtype)
    quantizer = quantizer_of(shape[-1])
    got = triton_codes.quantize_channels(x, quantizer, levels)
    wanted = static_int8_reference.quantize_channels(x, quantizer, levels)
    assert torch.equal(got, wanted)
    if x.numel() > 100:
        assert wanted.min() == -128
        assert wanted.max() == levels - 128


def test_codes_of_ties_and_of_what_is_not_finite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_PROGRAMS", 1)
    monkeypatch.setattr(blocks, "_ELEMENTS", 64)
    row = [0.5, -0.5, 1.5, -1.5, 2.5, 0.4, torch.nan, torch.inf, -torch.inf, 1e30]
    x = torch.tensor([row] * 40)
    quantizer = torch.tensor([[1.0], [0.0], [-3.0]]).expand(3, 10).contiguous()
    got = triton_codes.quantize_channels(x, quantizer, 255)
    wanted = static_int8_reference.quantize_channels(x, quantizer, 255)
    assert torch.equal(got, wanted)
    assert (wanted[0].int() + 128).tolist() == [4, 2, 5, 1, 6, 3, 0, 255, 0, 255]


def test_fp8_codes() -> None:
    """But where rounding carries into the exponent: there the interpreter is wrong."""
    x = 100 * draw(9, 40)
    x[4, 6], x[5, 7], x[6, 8] = torch.inf, 1e-9, -1e9
    quantizer = quantizer_of(40)[:2].contiguous() / 10
    got = triton_codes.quantize_fp8(x, quantizer).float()
    wanted = fp8._quantize_reference(x, quantizer).float()
    scaled = ((x - quantizer[1]) * quantizer[0]).clamp(-448, 448)
    kept = scaled.frexp().exponent == wanted.frexp().exponent
    kept &= wanted.abs() >= 2**-6  # nor does it round subnormal numbers
    assert kept.float().mean() > 0.9
    assert wanted.abs().max() == 448
    assert torch.equal(got[kept], wanted[kept])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("rows", "channels", "layers"), [(1, 8, 3), (13, 40, 2), (5, 320, 3), (7, 64, 1)]
)
def test_layer_norm_codes(rows: int, channels: int, layers: int, dtype: torch.dtype) -> None:
    x = 3 * draw(rows, channels, dtype=dtype) + 1
    weight, bias = (draw(channels, seed=s, dtype=dtype) for s in (1, 2))
    quantizers = [quantizer_of(channels, seed=s) for s in (3, 5, 7)[:layers]]
    given = (x, weight, bias, 1e-5, quantizers, 255)
    got = triton_codes.layer_norm_quantize(*given)
    assert differ(got, static_int8_reference.layer_norm_quantize(*given)) < 0.003


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("shape", [(1, 16), (3, 5, 40), (9, 640)])
def test_geglu_codes(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = 2 * draw(*shape, dtype=dtype)
    quantizer = quantizer_of(shape[-1] // 2)
    got = triton_codes.geglu_quantize(x, quantizer, 255)
    assert differ(got, static_int8_reference.geglu_quantize(x, quantizer, 255)) < 0.003


@pytest.mark.parametrize("held", [0, 16384])
@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize(("shape", "groups"), [((2, 64, 7, 9), 4), ((1, 40, 5, 3), 2)])
def test_group_norm_codes(
    shape: tuple[int, ...],
    groups: int,
    shifted: bool,
    held: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In one launch and in three, with SiLU and without."""
    monkeypatch.setattr(triton_small_norm, "_REGISTER_ENTRIES", held)
    x = 2 * feature_map(*shape, dtype=torch.float16) - 1
    weight, bias, shift = (draw(shape[1], seed=s) for s in (1, 2, 3))
    before = shift if shifted else None
    quantizer = quantizer_of(shape[1])
    given = (x, groups, weight, bias, 1e-5, before, shifted, quantizer, 255)
    got = triton_norm_codes.group_norm_quantize(*given)
    assert differ(got, static_int8_reference.group_norm_quantize(*given)) < 0.003


def test_normalized_codes_with_one_samples_statistics() -> None:
    x = feature_map(2, 64, 23, 17)
    weight, bias = (draw(64, seed=s) for s in (1, 2))
    statistics = reference.group_statistics(x[:1], 4)
    given = (x, statistics, weight, bias, 1e-5, None, True, quantizer_of(64), 63)
    got = triton_norm_codes.group_normalize_quantize(*given)
    assert differ(got, static_int8_reference.group_normalize_quantize(*given)) < 0.003


def tables(classes: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    correction = integers(classes, columns, low=-900000, high=900000).int()
    return draw(columns, seed=7).abs() / 5000, correction, draw(classes, columns, seed=8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("rows", "columns", "depth", "wider"),
    [(1, 8, 8, 0), (70, 40, 136, 8), (19, 130, 128, 0), (5, 24, 640, 320)],
)
def test_linear(rows: int, columns: int, depth: int, wider: int, dtype: torch.dtype) -> None:
    """Also on some channels of wider codes, whose rows are farther apart."""
    codes = integers(rows, depth + wider, low=-128, high=127).to(torch.int8)[:, wider:]
    weight = integers(columns, depth, low=-127, high=127, seed=1).to(torch.int8)
    residual = draw(rows, columns, seed=3, dtype=dtype) if rows > 5 else None
    given = (codes, weight, *tables(1, columns), residual, dtype)
    got = triton_static_int8.static_int8_linear(*given)
    wanted = static_int8_reference.static_int8_linear(*given)
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)


@pytest.mark.parametrize("programs", [1, 1000])
@pytest.mark.parametrize(
    ("shape", "columns", "kernel", "size", "stride", "padding"),
    [
        ((2, 40, 5, 7), 24, 3, (5, 7), 1, (1, 1)),
        ((1, 64, 6, 9), 72, 3, (6, 9), 2, (1, 1)),
        ((1, 64, 7, 6), 16, 3, (7, 6), 2, (0, 1)),
        ((1, 32, 4, 5), 16, 3, (7, 10), 1, (1, 1)),
        ((2, 128, 3, 1), 8, 3, (3, 1), 1, (1, 1)),
        ((1, 48, 5, 6), 8, 3, (5, 6), 1, (0, 0)),
        ((2, 72, 5, 3), 32, 1, (5, 3), 1, (0, 0)),
    ],
)
def test_conv(
    shape: tuple[int, ...],
    columns: int,
    kernel: int,
    size: tuple[int, int],
    stride: int,
    padding: tuple[int, int],
    programs: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Odd sizes, both strides, both paddings, upsampled codes; one launch and split sums."""
    monkeypatch.setattr(product_plan, "_PROGRAMS", programs)
    monkeypatch.setattr(product_plan, "_LEAST_STEPS", 1)
    codes = integers(*shape, low=-128, high=127).to(torch.int8)
    codes = codes.contiguous(memory_format=torch.channels_last)
    weight = integers(columns, kernel, kernel, shape[1], low=-127, high=127, seed=1)
    sides = static_int8.conv_size(size, kernel, stride, padding)
    plan = product_plan.plan_product(shape[0] * sides[0] * sides[1], columns, shape[1], kernel**2)
    assert (plan.splits > 1) == (programs > 1)
    vectors = tables(static_int8.BORDER_CLASSES if kernel == 3 else 1, columns)
    residual = feature_map(shape[0], columns, *sides, seed=4) if stride == 1 else None
    rest = (residual, list(size), stride, list(padding), torch.float32)
    given = (codes, weight.to(torch.int8), *vectors, *rest)
    got = triton_static_int8.static_int8_conv(*given)
    wanted = static_int8_reference.static_int8_conv(*given)
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    assert got.stride() == wanted.stride()
