"""Operators of static int8 and fp8 on the CPU and the meta device, against integers in int64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from pipelines import kernels
from pipelines.kernels import layouts, static_int8
from pipelines.kernels.fp8 import FP8, fp8_linear, quantize_fp8
from pipelines.kernels.product_plan import plan_product
from pipelines.kernels.static_int8 import BORDER_CLASSES, OFFSET

Tensor = torch.Tensor
OPS = torch.ops.pipelines


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(5)


def quantizer_of(channels: int, step: float = 0.05, zero: float = -100) -> Tensor:
    multiplier = (1 + torch.rand(channels)) / step
    return torch.stack([multiplier, 0.1 * torch.randn(channels), torch.full((channels,), zero)])


def nhwc(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def int8(*shape: int, low: int = -127) -> Tensor:
    return torch.randint(low, 128, shape).to(torch.int8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("levels", [255, 63])
def test_codes_are_the_nearest_in_exact_arithmetic(levels: int, dtype: torch.dtype) -> None:
    x, quantizer = 3 * torch.randn(7, 5, 12).to(dtype), quantizer_of(12)
    stored = static_int8.quantize_channels(x, quantizer, levels)
    assert (stored.dtype, stored.shape, stored.is_contiguous()) == (torch.int8, x.shape, True)
    codes = stored.double() + OFFSET
    multiplier, offset, zero = quantizer.double()
    exact = ((x.double() - offset) * multiplier - zero).clamp(0, levels)
    assert float((codes - exact).abs().max()) <= 0.5 + 1e-4
    assert codes.min() == 0
    assert codes.max() == levels


def test_halves_are_rounded_away_from_zero_and_nan_is_the_lowest_code() -> None:
    x = torch.tensor([0.5, -0.5, 1.5, -1.5, 2.4999, torch.nan, torch.inf, -torch.inf])
    quantizer = torch.tensor([[1.0], [0.0], [-4.0]]).expand(3, 8).contiguous()
    codes = static_int8.quantize_channels(x, quantizer, 255).int() + OFFSET
    assert codes.tolist() == [5, 3, 6, 2, 6, 0, 255, 0]


@pytest.mark.parametrize("shifted", [True, False])
def test_norms_write_the_codes_of_their_result(shifted: bool) -> None:
    x = nhwc(torch.randn(2, 16, 5, 7))
    weight, bias, shift = torch.randn(3, 16)
    before = shift if shifted else None
    quantizer = quantizer_of(16)
    got = static_int8.group_norm_quantize(x, 4, weight, bias, 1e-5, before, True, quantizer, 255)
    y = kernels.group_norm(x, 4, weight, bias, 1e-5, before)
    wanted = static_int8.quantize_channels(y.permute(0, 2, 3, 1), quantizer, 255)
    assert torch.equal(got.permute(0, 2, 3, 1), wanted)
    assert got.is_contiguous(memory_format=torch.channels_last)
    statistics = kernels.group_statistics(x, 4, before)
    apart = static_int8.group_normalize_quantize(
        x, statistics, weight, bias, 1e-5, before, True, quantizer, 255
    )
    assert torch.equal(apart, got)


def test_a_half_precision_map_is_not_rounded_between_norm_and_codes() -> None:
    x = nhwc(torch.randn(1, 16, 9, 9).half())
    weight, bias = torch.ones(16).half(), torch.zeros(16).half()
    quantizer = quantizer_of(16, step=1e-4, zero=-127)  # finer than half precision
    got = static_int8.group_norm_quantize(x, 4, weight, bias, 1e-5, None, False, quantizer, 255)
    y = F.group_norm(x.float(), 4, weight.float(), bias.float(), 1e-5)
    wanted = static_int8.quantize_channels(y.permute(0, 2, 3, 1), quantizer, 255)
    assert float((got.permute(0, 2, 3, 1) == wanted).float().mean()) > 0.99
    rounded = static_int8.quantize_channels(y.half().permute(0, 2, 3, 1), quantizer, 255)
    assert not torch.equal(rounded, wanted)


def test_a_layer_norm_writes_codes_for_each_layer_behind_it() -> None:
    x, (weight, bias) = torch.randn(2, 9, 24), torch.randn(2, 24)
    quantizers = [quantizer_of(24) for _ in range(3)]
    got = static_int8.layer_norm_quantize(x, weight, bias, 1e-5, quantizers, 255)
    y = F.layer_norm(x, (24,), weight, bias, 1e-5)
    for codes, quantizer in zip(got, quantizers, strict=True):
        assert torch.equal(codes, static_int8.quantize_channels(y, quantizer, 255))


def test_geglu_writes_the_codes_of_its_result() -> None:
    x, quantizer = 2 * torch.randn(2, 5, 24), quantizer_of(12)
    wanted = static_int8.quantize_channels(kernels.geglu(x), quantizer, 255)
    assert torch.equal(static_int8.geglu_quantize(x, quantizer, 255), wanted)


def linear_arguments(rows: int = 6, columns: int = 8, depth: int = 40) -> tuple[Any, ...]:
    correction = torch.randint(-(10**6), 10**6, (1, columns), dtype=torch.int32)
    tables = torch.rand(columns) / 100, correction, torch.randn(1, columns)
    return int8(rows, depth, low=-128), int8(columns, depth), *tables


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_linear_sums_are_exact(dtype: torch.dtype) -> None:
    codes, weight, scales, correction, bias = linear_arguments()
    residual = torch.randn(6, 8).to(dtype)
    got = static_int8.static_int8_linear(codes, weight, scales, correction, bias, residual, dtype)
    total = codes.long() @ weight.long().T + correction.long()
    wanted = total.double() * scales.double() + bias.double() + residual.double()
    torch.testing.assert_close(got.double(), wanted, rtol=1.01 * torch.finfo(dtype).eps, atol=1e-6)
    assert got.dtype == dtype


CONVOLUTIONS = pytest.mark.parametrize(
    ("kernel", "stride", "padding", "size"),
    [
        (3, 1, (1, 1), (5, 6)),
        (3, 2, (1, 1), (5, 6)),
        (3, 2, (0, 1), (5, 6)),
        (3, 1, (1, 1), (10, 11)),
        (3, 1, (0, 0), (5, 6)),
        (1, 1, (0, 0), (5, 6)),
        (3, 1, (1, 1), (1, 1)),
    ],
)


def conv_arguments(
    kernel: int, stride: int, padding: tuple[int, int], size: tuple[int, int], columns: int = 8
) -> tuple[Any, ...]:
    stored = (5, 6) if size != (1, 1) else size
    classes = BORDER_CLASSES if kernel == 3 else 1
    correction = torch.randint(-(10**6), 10**6, (classes, columns), dtype=torch.int32)
    tables = torch.rand(columns) / 100, correction, torch.randn(classes, columns)
    codes, weight = nhwc(int8(2, 24, *stored, low=-128)), int8(columns, kernel, kernel, 24)
    return codes, weight, *tables, None, list(size), stride, list(padding), torch.float32


@CONVOLUTIONS
def test_convolutions_sum_the_taps_inside_and_add_what_the_border_says(
    kernel: int, stride: int, padding: tuple[int, int], size: tuple[int, int]
) -> None:
    """Window by window, tap by tap, in Python's integers."""
    given = conv_arguments(kernel, stride, padding, size)
    codes, weight, scales, correction, bias = given[:5]
    got = static_int8.static_int8_conv(*given)
    assert got.is_contiguous(memory_format=torch.channels_last)
    factor = 1 if tuple(codes.shape[2:]) == size else 2
    for sample, row, column in torch.cartesian_prod(
        torch.arange(2), torch.arange(got.shape[2]), torch.arange(got.shape[3])
    ).tolist():
        total = torch.zeros(8, dtype=torch.long)
        top, left, border = row * stride - padding[0], column * stride - padding[0], 0
        for tap in range(kernel**2):
            y, x = top + tap // kernel, left + tap % kernel
            if 0 <= y < size[0] and 0 <= x < size[1]:
                pixel = codes[sample, :, y // factor, x // factor].long()
                total += weight[:, tap // kernel, tap % kernel].long() @ pixel
        border += (top < 0) + 2 * (top + kernel > size[0])
        border += 4 * (left < 0) + 8 * (left + kernel > size[1])
        wanted = (total + correction[border]).double() * scales.double() + bias[border].double()
        found = got[sample, :, row, column].double()
        torch.testing.assert_close(found, wanted, rtol=3e-7, atol=1e-5)


@pytest.mark.parametrize("kernel", [1, 3])
def test_convolutions_are_exact_where_float32_is_not(kernel: int) -> None:
    """Sums of the largest codes, odd ones among them, far beyond 2^24."""
    codes = nhwc(torch.full((1, 2560, 3, 3), -128, dtype=torch.int8))
    codes[:, ::3] = -127
    weight = torch.full((2, kernel, kernel, 2560), -127, dtype=torch.int8)
    weight[1] = 126
    tables = torch.ones(2), torch.zeros(BORDER_CLASSES, 2, dtype=torch.int32)
    exact = torch.einsum("c,oijc->o", codes[0, :, 1, 1].long(), weight.long())
    assert exact.abs().max() > 2**24
    correction = tables[1].clone()
    correction[0] = 1 - exact.int()  # the middle: what is left is 1 if every unit was counted
    correction = correction if kernel == 3 else correction[:1]
    rest = None, [3, 3], 1, [kernel // 2] * 2, torch.float32
    bias = torch.zeros(correction.shape)
    got = static_int8.static_int8_conv(codes, weight, tables[0], correction, bias, *rest)
    assert got[0, :, 1, 1].tolist() == [1.0, 1.0]


def test_some_channels_of_wider_codes_are_read_where_they_lie() -> None:
    given = conv_arguments(3, 1, (1, 1), (5, 6))
    wide = nhwc(torch.cat([given[0], int8(2, 16, 5, 6)], dim=1))[:, :24]
    assert not wide.is_contiguous(memory_format=torch.channels_last)
    assert layouts.int8_conv_fits(wide, *given[1:])
    wanted = static_int8.static_int8_conv(*given)
    assert torch.equal(static_int8.static_int8_conv(wide, *given[1:]), wanted)


EVERY = [
    ("quantize_channels", lambda: (torch.randn(3, 8), quantizer_of(8), 255)),
    (
        "group_norm_quantize",
        lambda: (nhwc(torch.randn(1, 8, 3, 4)), 2, *torch.randn(2, 8), 1e-5, None, True,
                 quantizer_of(8), 255),
    ),
    (
        "group_normalize_quantize",
        lambda: (nhwc(torch.randn(1, 8, 3, 4)), torch.rand(1, 2, 2), *torch.randn(2, 8), 1e-5,
                 torch.randn(8), False, quantizer_of(8), 255),
    ),
    (
        "layer_norm_quantize",
        lambda: (torch.randn(3, 8), *torch.randn(2, 8), 1e-5, [quantizer_of(8)] * 2, 255),
    ),
    ("geglu_quantize", lambda: (torch.randn(3, 16), quantizer_of(8), 255)),
    ("static_int8_linear", lambda: (*linear_arguments(), torch.randn(6, 8), torch.float16)),
    ("static_int8_conv", lambda: conv_arguments(3, 2, (0, 1), (5, 6))),
    ("quantize_fp8", lambda: (torch.randn(3, 16), quantizer_of(16)[:2].contiguous())),
    ("fp8_linear", lambda: (torch.randn(3, 16).to(FP8), torch.randn(8, 16).to(FP8),
                            torch.rand(1), torch.rand(1), torch.randn(8), torch.float16)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments"), EVERY, ids=[name for name, _ in EVERY])
def test_operators_are_registered_as_they_behave(name: str, arguments: Any) -> None:
    given = arguments()
    operator = getattr(OPS, name).default
    if not any(torch.is_tensor(a) and a.dtype == FP8 for a in given):  # it cannot compare them
        torch.library.opcheck(operator, given, test_utils=("test_schema", "test_faketensor"))
    before = [a.clone() if torch.is_tensor(a) else a for a in given]
    wanted = operator(*given)
    assert all(
        not torch.is_tensor(a) or torch.equal(a, b) for a, b in zip(given, before, strict=True)
    )
    meta = [
        a.to("meta") if torch.is_tensor(a)
        else [t.to("meta") for t in a] if isinstance(a, list) and torch.is_tensor(a[0]) else a
        for a in given
    ]  # fmt: skip
    described = operator(*meta)
    assert (described.shape, described.dtype, described.stride()) == (
        wanted.shape, wanted.dtype, wanted.stride(),
    )  # fmt: skip


def test_operations_are_counted() -> None:
    given = [
        a.to("meta") if torch.is_tensor(a) else a for a in conv_arguments(3, 2, (0, 1), (5, 6))
    ]
    codes, weight = (torch.empty(rows, 16, device="meta", dtype=FP8) for rows in (6, 8))
    with FlopCounterMode(display=False) as counter:
        out = static_int8.static_int8_conv(*given)
        static_int8.static_int8_linear(
            *(a.to("meta") for a in linear_arguments(6, 8, 40)), None, torch.float32
        )
        vectors = (torch.empty(size, device="meta") for size in (1, 1, 8))
        fp8_linear(codes, weight, *vectors, torch.float16)
    assert tuple(out.shape) == (2, 8, 2, 3)
    conv = 2 * 2 * 8 * 2 * 3 * 9 * 24
    assert counter.get_total_flops() == conv + 2 * 6 * 8 * 40 + 2 * 6 * 8 * 16


def test_fp8_numbers_are_the_products_of_rounded_factors() -> None:
    x, weight = torch.randn(5, 32), torch.randn(8, 32).to(FP8)
    quantizer = torch.stack([torch.full((32,), 100.0), torch.full((32,), 0.1)])
    codes = quantize_fp8(x, quantizer)
    assert codes.dtype == FP8
    assert torch.equal(codes.float(), ((x - 0.1) * 100).clamp(-448, 448).to(FP8).float())
    scale, weight_scale, bias = torch.tensor([0.01]), torch.tensor([2.0]), torch.randn(8)
    got = fp8_linear(codes, weight, scale, weight_scale, bias, torch.float32)
    wanted = codes.double() @ weight.double().T * 0.02 + bias.double()
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-4)
    poisoned = quantize_fp8(torch.full((1, 32), torch.nan), quantizer)
    assert poisoned.float().isnan().all()


# Rows, columns, depth and taps of every product of the full-size networks at 512x512 (spec 4.1).
FULL_SIZE = [
    (4096, 320, 320, 9), (256, 1280, 1280, 9), (1024, 640, 640, 9), (256, 1280, 2560, 9),
    (1024, 640, 1280, 9), (4096, 320, 640, 9), (64, 1280, 1280, 9), (4096, 320, 320, 1),
    (4096, 2560, 320, 1), (1024, 640, 640, 1), (1024, 5120, 640, 1), (256, 1280, 1280, 1),
    (256, 10240, 1280, 1), (4096, 320, 1280, 1), (1024, 640, 2560, 1), (256, 1280, 5120, 1),
    (16384, 512, 512, 9), (65536, 256, 256, 9), (262144, 128, 128, 9), (65536, 512, 512, 9),
    (262144, 256, 256, 9), (4096, 512, 512, 9),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "columns", "depth", "taps"), FULL_SIZE)
def test_plans_of_the_full_size_networks(rows: int, columns: int, depth: int, taps: int) -> None:
    plan = plan_product(rows, columns, depth, taps)
    assert depth % plan.block_k == 0
    assert plan.steps == taps * depth // plan.block_k
    bytes_in_flight = plan.stages * plan.block_k * (plan.block_m + plan.block_n)
    assert bytes_in_flight <= 96 * 1024
    across = -(-columns // plan.block_n)
    assert across * plan.block_n <= 1.1 * columns
    programs = -(-rows // plan.block_m) * across * plan.splits
    longest = -(-plan.steps // plan.splits)
    assert programs >= 100 or longest < 16, plan  # nothing long leaves most of a card idle
    assert plan.splits == 1 or longest >= 8
    assert (plan.splits - 1) * longest < plan.steps  # no split without work


@pytest.mark.parametrize(("rows", "columns", "depth"), [(1, 1, 1), (3, 8, 8), (77, 24, 40)])
def test_plans_of_small_products_fit_the_matrix_units(rows: int, columns: int, depth: int) -> None:
    plan = plan_product(rows, columns, depth)
    assert min(plan.block_m, plan.block_n) >= 16
    assert plan.block_k >= 32
    assert plan.splits == 1


def test_every_sum_of_the_full_size_networks_fits_int32() -> None:
    deepest = max(depth * taps for *_, depth, taps in FULL_SIZE)
    assert deepest == 23040
    assert deepest * 128 * 127 < 2**31
    assert deepest * 255 * 127 < 2**31  # with the correction


def test_other_layouts_are_left_to_the_reference() -> None:
    quantizer = quantizer_of(8)
    x = torch.randn(4, 8)
    assert layouts.codes_fit(x, quantizer, 255)
    assert not layouts.codes_fit(x.double(), quantizer, 255)
    assert not layouts.codes_fit(x.t(), quantizer, 255)
    assert not layouts.codes_fit(x, quantizer.double(), 255)
    assert not layouts.codes_fit(x, quantizer_of(7), 255)
    assert layouts.fp8_codes_fit(x, quantizer[:2].contiguous())
    assert not layouts.fp8_codes_fit(x, quantizer)
    vectors = torch.ones(8), torch.zeros(8), 1e-5
    assert layouts.layer_norm_codes_fit(x, *vectors, [quantizer], 255)
    assert not layouts.layer_norm_codes_fit(x, *vectors, [quantizer] * 4, 255)
    feature_map = torch.randn(1, 8, 3, 3)
    assert not layouts.norm_codes_fit(feature_map, 2, *vectors, None, True, quantizer, 255)
    assert layouts.norm_codes_fit(nhwc(feature_map), 2, *vectors, None, True, quantizer, 255)
    given = linear_arguments()
    assert layouts.int8_linear_fits(*given, None, torch.float16)
    assert not layouts.int8_linear_fits(*given, None, torch.bfloat16)
    assert not layouts.int8_linear_fits(given[0].t(), *given[1:], None, torch.float16)
    pictures = list(conv_arguments(3, 1, (1, 1), (5, 6)))
    assert layouts.int8_conv_fits(*pictures)
    beside = nhwc(torch.randn(pictures[0].shape[0], pictures[1].shape[0], 5, 6))
    assert layouts.int8_conv_fits(*pictures[:5], beside, *pictures[6:])
    assert not layouts.int8_conv_fits(*pictures[:5], nhwc(beside[..., :5]), *pictures[6:])
    pictures[0] = pictures[0].contiguous()
    assert not layouts.int8_conv_fits(*pictures)
    pointwise = list(conv_arguments(1, 1, (0, 0), (5, 6)))
    assert layouts.int8_conv_fits(*pointwise)
    pointwise[6] = [10, 12]  # the kernel would read pixel m for window m
    assert not layouts.int8_conv_fits(*pointwise)
