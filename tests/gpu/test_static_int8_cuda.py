"""Static int8 and fp8 on a real card at production shapes, against the CPU's exact reference."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn

from pipelines.kernels import fp8, operators, static_int8
from pipelines.kernels.static_int8 import BORDER_CLASSES
from pipelines.passionsr.fp8 import Fp8Linear, fp8_supported
from pipelines.passionsr.integer import IntegerConv2d, IntegerLinear
from pipelines.passionsr.layer import QuantizedConv2d, QuantizedLayer, QuantizedLinear

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
Tensor = torch.Tensor
HALF_ROUNDING = 2.0**-11


@contextmanager
def poisoned() -> Iterator[None]:
    """New tensors hold NaN or the largest integer: what a kernel leaves out shows."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator(device="cuda").manual_seed(seed)
    return torch.randn(shape, generator=generator, device="cuda").to(dtype)


def int8(*shape: int, low: int = -127, seed: int = 0) -> Tensor:
    generator = torch.Generator(device="cuda").manual_seed(seed)
    drawn = torch.randint(low, 128, shape, generator=generator, device="cuda")
    return drawn.to(torch.int8)


def nhwc(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def quantizer_of(channels: int, seed: int = 5) -> Tensor:
    multiplier = 40 * (1 + 0.3 * draw(channels, seed=seed).clamp(-1, 1))
    zero = torch.full_like(multiplier, -100)
    return torch.stack([multiplier, 0.1 * draw(channels, seed=seed + 1), zero])


def tables(classes: int, columns: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator(device="cuda").manual_seed(9)
    correction = torch.randint(
        -(10**6), 10**6, (classes, columns), generator=generator, device="cuda"
    )
    return draw(columns).abs() / 5000, correction.int(), draw(classes, columns, seed=8)


def on_the_cpu(given: Any) -> list[Any]:
    return [
        a.cpu() if torch.is_tensor(a)
        else [t.cpu() for t in a] if isinstance(a, list) and torch.is_tensor(a[0]) else a
        for a in given
    ]  # fmt: skip


def nearly_all_equal(got: Tensor, wanted: Tensor, share: float = 0.002) -> None:
    """exp and the order of sums differ between devices: some values lie on the other side."""
    distance = (got.cpu().int() - wanted.int()).abs()
    assert distance.max() <= 1
    assert float((distance > 0).float().mean()) < share


def test_this_card_runs_the_kernels() -> None:
    """Else everything below would compare the reference with itself."""
    assert operators._card_runs_triton(0)
    for module, name in (
        ("static_int8", "static_int8_conv"),
        ("codes", "quantize_channels"),
        ("norm_codes", "group_norm_quantize"),
    ):
        assert operators._launcher(f"pipelines.kernels.triton_{module}", name)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("shape", [(4096, 320), (3, 77, 1280), (5, 40)])
def test_codes_are_the_cpus_bit_by_bit(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, quantizer = 2 * draw(*shape, dtype=dtype), quantizer_of(shape[-1])
    with poisoned():
        got = static_int8.quantize_channels(x, quantizer, 255)
    assert torch.equal(got.cpu(), static_int8.quantize_channels(x.cpu(), quantizer.cpu(), 255))


@pytest.mark.parametrize("shifted", [True, False])
@pytest.mark.parametrize(
    "shape", [(2, 320, 64, 64), (1, 1280, 8, 8), (1, 512, 128, 96), (2, 64, 31, 33)]
)
def test_group_norm_codes(shape: tuple[int, ...], shifted: bool) -> None:
    x = nhwc(3 * draw(*shape, dtype=torch.float16) + 1)
    weight, bias, shift = (draw(shape[1], seed=s) for s in (1, 2, 3))
    before = shift if shifted else None
    quantizer = quantizer_of(shape[1])
    given = (x, 32, weight, bias, 1e-5, before, True, quantizer, 255)
    with poisoned():
        got = static_int8.group_norm_quantize(*given)
    assert got.is_contiguous(memory_format=torch.channels_last)
    nearly_all_equal(got, static_int8.group_norm_quantize(*on_the_cpu(given)))


@pytest.mark.parametrize("shape", [(2, 4096, 320), (1, 256, 1280), (3, 7, 40)])
def test_layer_norm_and_geglu_codes(shape: tuple[int, ...]) -> None:
    channels = shape[-1]
    x, (weight, bias) = draw(*shape, dtype=torch.float16), draw(2, channels, seed=1)
    quantizers = [quantizer_of(channels, seed=s) for s in (3, 5, 7)]
    given = (x, weight, bias, 1e-5, quantizers, 255)
    wide, quantizer = draw(*shape[:-1], 2 * channels, dtype=torch.float16), quantizers[0]
    with poisoned():
        normalised = static_int8.layer_norm_quantize(*given)
        gated = static_int8.geglu_quantize(wide, quantizer, 255)
    nearly_all_equal(normalised, static_int8.layer_norm_quantize(*on_the_cpu(given)))
    nearly_all_equal(gated, static_int8.geglu_quantize(wide.cpu(), quantizer.cpu(), 255))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize(
    ("rows", "columns", "depth"),
    [
        (4096, 320, 320), (4096, 2560, 320), (1024, 640, 640), (1024, 640, 2560),
        (256, 1280, 5120), (256, 10240, 1280), (77, 40, 72), (1, 8, 8),
    ],
)  # fmt: skip
def test_linear(rows: int, columns: int, depth: int, dtype: torch.dtype) -> None:
    codes, weight = int8(rows, depth, low=-128), int8(columns, depth, seed=1)
    residual = draw(rows, columns, seed=3, dtype=dtype)
    given = (codes, weight, *tables(1, columns), residual, dtype)
    with poisoned():
        got, again = (static_int8.static_int8_linear(*given) for _ in range(2))
    wanted = static_int8.static_int8_linear(*on_the_cpu(given))
    digits = HALF_ROUNDING if dtype == torch.float16 else 1e-6
    torch.testing.assert_close(got.cpu(), wanted, rtol=1.02 * digits, atol=1e-4)
    assert torch.equal(got, again)


@pytest.mark.parametrize(
    ("shape", "columns", "kernel", "size", "stride", "padding"),
    [
        ((1, 320, 64, 64), 320, 3, (64, 64), 1, (1, 1)),
        ((2, 1280, 8, 8), 1280, 3, (8, 8), 1, (1, 1)),
        ((1, 2560, 16, 16), 1280, 3, (16, 16), 1, (1, 1)),
        ((1, 640, 32, 32), 640, 3, (32, 32), 2, (1, 1)),
        ((1, 128, 101, 67), 128, 3, (101, 67), 2, (0, 1)),
        ((1, 512, 32, 24), 512, 3, (64, 48), 1, (1, 1)),
        ((2, 640, 7, 9), 640, 3, (13, 18), 1, (1, 1)),
        ((1, 960, 64, 64), 320, 1, (64, 64), 1, (0, 0)),
        ((3, 40, 13, 5), 24, 3, (13, 5), 1, (1, 1)),
    ],
)
def test_conv(
    shape: tuple[int, ...],
    columns: int,
    kernel: int,
    size: tuple[int, int],
    stride: int,
    padding: tuple[int, int],
) -> None:
    codes, weight = nhwc(int8(*shape, low=-128)), int8(columns, kernel, kernel, shape[1], seed=1)
    vectors = tables(BORDER_CLASSES if kernel == 3 else 1, columns)
    sides = static_int8.conv_size(size, kernel, stride, padding)
    residual = nhwc(draw(shape[0], columns, *sides, seed=3))
    rest = (residual, list(size), stride, list(padding), torch.float32)
    given = (codes, weight, *vectors, *rest)
    with poisoned():
        got, again = (static_int8.static_int8_conv(*given) for _ in range(2))
    wanted = static_int8.static_int8_conv(*on_the_cpu(given))
    torch.testing.assert_close(got.cpu(), wanted, rtol=1e-6, atol=1e-4)
    assert torch.equal(got, again)
    assert got.is_contiguous(memory_format=torch.channels_last)


def quantized(module: nn.Linear | nn.Conv2d, x: Tensor, split: bool) -> QuantizedLayer:
    layer = QuantizedLayer.wrap(module.cuda(), split=split, mode="fixed")
    with torch.no_grad():
        layer(x)
        layer.offset.normal_(std=0.2)
        for parameter in layer.bound_parameters():
            parameter.mul_(0.8)
    return layer


@pytest.mark.parametrize("split", [False, True])
def test_layers_equal_the_simulation(split: bool) -> None:
    """To 1e-5, without TensorFloat32 in the simulation's product."""
    assert torch.get_float32_matmul_precision() == "highest"
    tokens, picture = draw(2, 300, 640), nhwc(draw(1, 256, 33, 40))
    linear = quantized(nn.Linear(640, 320), tokens, split)
    conv = quantized(nn.Conv2d(256, 128, 3, padding=1), picture, split)
    assert isinstance(linear, QuantizedLinear)
    assert isinstance(conv, QuantizedConv2d)
    with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        pairs = [
            (IntegerLinear.from_layer(linear)(tokens), linear(tokens)),
            (IntegerConv2d.from_layer(conv)(picture), conv(picture)),
        ]
    for got, wanted in pairs:
        assert float((got - wanted).abs().max() / wanted.abs().max()) < 1e-5


def test_a_graph_replays_them() -> None:
    """No synchronisation, nothing allocated by data; split sums included."""
    layer = quantized(nn.Conv2d(640, 320, 3, padding=1), nhwc(draw(1, 640, 8, 8)), split=False)
    assert isinstance(layer, QuantizedConv2d)
    integer = IntegerConv2d.from_layer(layer)
    x, residual = (nhwc(draw(1, c, 8, 8, seed=c, dtype=torch.float16)) for c in (640, 320))
    with torch.inference_mode():
        wanted = integer(x, residual)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = integer(x, residual)
        graph.replay()
        assert torch.equal(got, wanted)
        x.mul_(2)
        graph.replay()
        assert not torch.equal(got, wanted)
        assert torch.equal(got, integer(x, residual))


needs_fp8 = pytest.mark.skipif(
    not torch.cuda.is_available() or bool(fp8_supported("cuda")), reason="this card has no fp8"
)


@needs_fp8
@pytest.mark.parametrize("shape", [(4096, 320), (2, 77, 1280)])
def test_fp8_codes_are_the_cpus(shape: tuple[int, ...]) -> None:
    x, quantizer = 5 * draw(*shape), quantizer_of(shape[-1])[:2].contiguous()
    x[..., 0, 0] = torch.nan
    with poisoned():
        got = fp8.quantize_fp8(x, quantizer).float().cpu()
    wanted = fp8.quantize_fp8(x.cpu(), quantizer.cpu()).float()
    assert torch.equal(got.isnan(), wanted.isnan())
    torch.testing.assert_close(got, wanted, rtol=0.13, atol=2**-9, equal_nan=True)
    # sm89 rounds by way of float16, which loses what lies just above a tie.
    assert float((got != wanted)[~wanted.isnan()].float().mean()) < 0.02


@needs_fp8
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_fp8_layers_equal_the_cpus(dtype: torch.dtype) -> None:
    x = draw(300, 640)
    layer = quantized(nn.Linear(640, 320), x, split=False)
    assert isinstance(layer, QuantizedLinear)
    card = Fp8Linear.from_layer(layer)
    got = card(x.to(dtype))
    wanted = Fp8Linear.from_layer(layer).cpu()(x.to(dtype).cpu())
    assert got.dtype == dtype
    assert float((got.cpu() - wanted).norm() / wanted.norm()) < 5e-3


@pytest.mark.skipif(
    torch.cuda.is_available() and not fp8_supported("cuda"), reason="this card has fp8"
)
def test_a_card_without_fp8_says_so() -> None:
    assert "fp8 needs 8.9" in fp8_supported("cuda")
