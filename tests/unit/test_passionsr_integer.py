"""Integer layers against the simulation they stand for: every kind in the UNet and the VAE."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipelines.contract import PipelineError
from pipelines.kernels.static_int8 import OFFSET
from pipelines.passionsr.fp8 import Fp8Linear, fp8_supported
from pipelines.passionsr.integer import IntegerConv2d, IntegerLinear, make_integer
from pipelines.passionsr.integer_layers import IntegerLayer
from pipelines.passionsr.layer import QuantizedConv2d, QuantizedLayer, QuantizedLinear

Tensor = torch.Tensor
BITS = pytest.mark.parametrize("bits", [8, 6])
SPLIT = pytest.mark.parametrize("split", [False, True])


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(3)


def quantized(module: nn.Linear | nn.Conv2d, x: Tensor, bits: int, split: bool) -> QuantizedLayer:
    """Initialised by x, then as if learned: bounds that clip, a shift that is far from zero."""
    layer = QuantizedLayer.wrap(module, bits, bits, split, mode="fixed")
    with torch.no_grad():
        layer(x)
        layer.offset.normal_(std=0.2)
        for parameter in layer.bound_parameters():
            parameter.mul_(0.8)
    return layer


def integer_of(layer: QuantizedLayer) -> IntegerLayer:
    if isinstance(layer, QuantizedConv2d):
        return IntegerConv2d.from_layer(layer)
    assert isinstance(layer, QuantizedLinear)
    return IntegerLinear.from_layer(layer)


def equal_functions(got: Tensor, wanted: Tensor) -> None:
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    error = (got.double() - wanted.double()).abs().max() / wanted.double().abs().max()
    assert float(error) < 1e-5, float(error)


def simulated_codes(layer: QuantizedLayer, x: Tensor) -> Tensor:
    """Integers 0 to n of the simulation, from its own dequantized input."""
    channels = layer.channels
    parts = []
    for index, segment in enumerate(layer.segments()):
        part = x.movedim(channels, -1)[..., segment.start : segment.stop]
        quantizer = layer.get_submodule(f"act_quantizer_{index}")
        scale = layer.scale_factor.flatten()[segment.start : segment.stop]
        value = quantizer(part, scale, layer.offset.flatten()[segment.start : segment.stop])
        parts.append((value / segment.input_step).round() - segment.zero)
    return torch.cat(parts, dim=-1).movedim(-1, channels)


@torch.no_grad()
def check(layer: QuantizedLayer, x: Tensor) -> None:
    integer = integer_of(layer)
    equal_functions(integer(x), layer(x))
    codes = integer.quantize(x)
    assert codes.dtype == torch.int8
    assert torch.equal(codes.float() + OFFSET, simulated_codes(layer, x))
    stored = codes.int() + OFFSET
    assert int(stored.max()) == 2**layer.settings.activation_bits - 1  # something is clipped
    residual = torch.randn_like(layer(x))
    equal_functions(integer(x, residual), layer(x) + residual)
    equal_functions(integer(codes, residual), layer(x) + residual)


@BITS
@SPLIT
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "outputs"), [((2, 9, 40), 24), ((1, 64, 320), 320), ((7, 16), 128)]
)
def test_linear(shape: tuple[int, ...], outputs: int, bias: bool, split: bool, bits: int) -> None:
    x = 2 * torch.randn(shape) + 0.5
    check(quantized(nn.Linear(shape[-1], outputs, bias=bias), x, bits, split), x)


@BITS
@SPLIT
@pytest.mark.parametrize(
    ("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (3, 2, 0), (3, 1, 0), (1, 1, 0)]
)
@pytest.mark.parametrize("size", [(8, 8), (7, 5), (3, 6)])
def test_conv(
    size: tuple[int, int], kernel: int, stride: int, padding: int, split: bool, bits: int
) -> None:
    x = 2 * torch.randn(2, 24, *size) + 0.5
    module = nn.Conv2d(24, 16, kernel, stride, padding, bias=kernel == 3)
    layer = quantized(module, x, bits, split)
    check(layer, x)
    check(layer, x.contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("size", [(1, 1), (1, 6), (4, 1), (2, 2)])
@pytest.mark.parametrize("stride", [1, 2])
def test_maps_smaller_than_the_window(size: tuple[int, int], stride: int) -> None:
    """Every tap but the middle one can be outside, on both sides at once."""
    x = torch.randn(3, 16, *size)
    check(quantized(nn.Conv2d(16, 8, 3, stride, 1), x, 8, split=False), x)


@SPLIT
@pytest.mark.parametrize("size", [(8, 12), (7, 12), (7, 11)])
def test_upsampling_reads_each_code_again(size: tuple[int, int], split: bool) -> None:
    """The UNet's skip connections may be one row or column short of double."""
    x = torch.randn(1, 16, 4, 6)
    layer = quantized(nn.Conv2d(16, 8, 3, padding=1), x, 8, split)
    assert isinstance(layer, QuantizedConv2d)
    with torch.no_grad():
        wanted = layer(F.interpolate(x, size=size, mode="nearest"))
        equal_functions(IntegerConv2d.from_layer(layer)(x, size=size), wanted)


@BITS
@SPLIT
@pytest.mark.parametrize("size", [(8, 6), (7, 6), (7, 5)])
def test_the_vaes_downsampling_pads_before_its_layer(
    size: tuple[int, int], split: bool, bits: int
) -> None:
    """What is padded there is black of the map, not of the shifted and scaled one."""
    x = torch.randn(1, 16, *size) + 1
    layer = quantized(nn.Conv2d(16, 8, 3, stride=2), F.pad(x, (0, 1, 0, 1)), bits, split)
    assert isinstance(layer, QuantizedConv2d)
    with torch.no_grad():
        wanted = layer(F.pad(x, (0, 1, 0, 1)))
        equal_functions(IntegerConv2d.from_layer(layer, (0, 1))(x), wanted)


@torch.no_grad()
def test_the_whole_range_of_the_sums_is_exact() -> None:
    """Inputs and weights at their largest codes: K = 23040, sums beyond 2^24."""
    module = nn.Linear(23040, 8, bias=False)
    module.weight.copy_(torch.linspace(0.99, 1.0, 8)[:, None].expand(8, 23040))
    x = torch.linspace(0.9, 1.0, 4)[:, None].expand(4, 23040).clone()
    layer = QuantizedLayer.wrap(module, mode="fixed")
    layer.set_scale(torch.ones_like(layer.scale_factor))
    layer.set_weight_bounds()
    layer.set_activation_bounds(torch.tensor(0.0), torch.tensor(1.0))
    layer.mark_initialized()
    integer = integer_of(layer)
    codes = integer.quantize(x).double() + OFFSET
    weights = layer.segments()[0].weight_codes.double()
    exact = codes @ weights.T * layer.segments()[0].input_step.double()
    exact *= layer.segments()[0].weight_steps.double()
    assert float((codes @ weights.T).max()) > 2**29
    torch.testing.assert_close(integer(x).double(), exact, rtol=3e-7, atol=0)


def test_casting_and_moving_leave_the_constants_exact() -> None:
    x = torch.randn(2, 9, 40)
    integer = integer_of(quantized(nn.Linear(40, 24), x, 8, split=True))
    with torch.no_grad():
        wanted, codes = integer(x), integer.quantize(x)
        assert integer(codes).dtype == torch.float32
        before = {name: b.clone() for name, b in integer.named_buffers()}
        assert before
        integer.half().to("cpu", torch.float16)
        assert all(torch.equal(b, before[name]) for name, b in integer.named_buffers())
        assert integer(codes).dtype == torch.float16
        assert torch.equal(integer(x), wanted)
        half = integer(x.half())
    assert half.dtype == torch.float16
    assert integer.state_dict() == {}
    torch.testing.assert_close(half.float(), wanted, rtol=0.02, atol=0.1)


@pytest.mark.parametrize(
    ("module", "shape", "result"),
    [
        (nn.Linear(16, 24), (2, 5, 16), (2, 5, 24)),
        (nn.Conv2d(16, 24, 3, stride=2, padding=1), (1, 16, 7, 5), (1, 24, 4, 3)),
    ],
)
@SPLIT
def test_shapes_on_the_meta_device(
    module: nn.Linear | nn.Conv2d, shape: tuple[int, ...], result: tuple[int, ...], split: bool
) -> None:
    layer = QuantizedLayer.wrap(module.to("meta"), split=split, mode="fixed")
    integer = integer_of(layer)
    out = integer(torch.empty(shape, device="meta"))
    assert out.is_meta
    assert tuple(out.shape) == result
    real = integer_of(quantized(type(module)(**_arguments(module)), torch.randn(shape), 8, split))
    described = {name: (b.shape, b.dtype) for name, b in integer.named_buffers()}
    assert described == {name: (b.shape, b.dtype) for name, b in real.named_buffers()}


def _arguments(module: nn.Linear | nn.Conv2d) -> dict[str, object]:
    if isinstance(module, nn.Linear):
        return {"in_features": module.in_features, "out_features": module.out_features}
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding")
    return {name: getattr(module, name) for name in names}


@pytest.mark.parametrize("kernel", [2, 5])
def test_convolutions_without_a_kernel_are_refused(kernel: int) -> None:
    x = torch.randn(1, 8, 9, 9)
    layer = quantized(nn.Conv2d(8, 8, kernel), x, 8, split=False)
    with pytest.raises(PipelineError, match=f"{kernel}x{kernel}.*make_integer"):
        integer_of(layer)


def test_layers_that_cannot_be_exported_are_refused() -> None:
    published = QuantizedLayer.wrap(nn.Linear(8, 8), mode="paper")
    with pytest.raises(PipelineError, match="mode 'fixed'"):
        integer_of(published)
    fresh = QuantizedLayer.wrap(nn.Linear(8, 8), mode="fixed")
    with pytest.raises(PipelineError, match="calibrate it"):
        integer_of(fresh)
    broken = quantized(nn.Linear(8, 8), torch.randn(4, 8), 8, split=False)
    assert broken.bias is not None
    broken.bias[3] = torch.nan
    with pytest.raises(PipelineError, match="not finite"):
        integer_of(broken)
    pointwise = quantized(nn.Conv2d(8, 8, 1), torch.randn(1, 8, 3, 3), 8, split=False)
    assert isinstance(pointwise, QuantizedConv2d)
    with pytest.raises(PipelineError, match="1x1"):
        IntegerConv2d.from_layer(pointwise, (0, 1))


def network() -> tuple[nn.Sequential, dict[str, QuantizedLayer]]:
    x = torch.randn(4, 32)
    layers = {
        "first": quantized(nn.Linear(32, 48), x, 8, split=False),
        "second": quantized(nn.Linear(48, 24), torch.randn(4, 48), 8, split=False),
    }
    return nn.Sequential(layers["first"], nn.GELU(), nn.ModuleList([layers["second"]])[0]), layers


def test_layers_of_a_network_are_replaced() -> None:
    model, layers = network()
    x = torch.randn(4, 32)
    with torch.inference_mode():
        wanted = model(x)
        assert make_integer(model, layers) == {"first": "int8", "second": "int8"}
        equal_functions(model(x), wanted)
    assert [type(m) for m in model] == [IntegerLinear, nn.GELU, IntegerLinear]
    with pytest.raises(PipelineError, match="layer first is not in the network"):
        make_integer(model, layers)


def test_fp8_takes_the_widths_it_can() -> None:
    model, layers = network()
    x = torch.randn(64, 32)
    with torch.no_grad():
        layers["first"].quantizing = False
        first = layers["first"](x)
        layers["first"].quantizing = True
        assert make_integer(model, layers, arithmetic="fp8") == {"first": "fp8", "second": "int8"}
        error = (model[0](x) - first).norm() / first.norm()
    assert isinstance(model[0], Fp8Linear)
    # e4m3 has 3 bits behind the point: 1.8 % a rounding in the mean, two of them; clipping adds.
    assert 0.01 < float(error) < 0.2


@torch.no_grad()
def test_fp8_is_the_layer_on_the_fp8_grid() -> None:
    x = torch.randn(50, 64)
    module = nn.Linear(64, 32)
    layer = quantized(module, x, 8, split=True)
    assert isinstance(layer, QuantizedLinear)
    fp8 = Fp8Linear.from_layer(layer).half()
    codes = ((x.double() - layer.offset.double()) * fp8.quantizer[0].double()).clamp(-448, 448)
    codes = codes.float().to(torch.float8_e4m3fn).double() * fp8.scale.double()
    weight = fp8.weight.double() * fp8.weight_scale.double()
    shift = module.weight.double() @ layer.offset[0].double()
    wanted = codes @ weight.T + shift + module.bias.double()
    equal_functions(fp8(x), wanted.float())
    smoothed = module.weight.double() * layer.scale_factor.double()
    torch.testing.assert_close(weight, smoothed, rtol=2**-4, atol=2**-9 * float(smoothed.max()))
    bounds = [bound.abs() for name, bound in layer.named_parameters() if "act_quantizer" in name]
    reach = float(torch.stack(bounds).max())
    assert float(fp8.scale) * 448 == pytest.approx(reach, rel=0.01)
    assert fp8(x.half()).dtype == torch.float16


def test_fp8_refuses_what_it_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fp8_supported("cpu") == ""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A10")
    assert "NVIDIA A10 is of compute capability 8.6" in fp8_supported("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert fp8_supported("cuda") == ""
    layer = quantized(nn.Linear(40, 32), torch.randn(4, 40), 8, split=False)
    assert isinstance(layer, QuantizedLinear)
    with pytest.raises(PipelineError, match="multiples of 16"):
        Fp8Linear.from_layer(layer)
