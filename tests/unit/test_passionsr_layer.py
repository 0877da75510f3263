"""Quantized layers: what the first call sets, what the integers say, what state they keep."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipelines.contract import PipelineError
from pipelines.passionsr.layer import QuantizedConv2d, QuantizedLayer, QuantizedLinear
from pipelines.passionsr.settings import LayerSettings, Mode

Tensor = torch.Tensor
MODES: list[Mode] = ["paper", "fixed"]
CONVS = [
    nn.Conv2d(6, 8, 3, padding=1),
    nn.Conv2d(7, 8, 3, stride=2, padding=1, bias=False),
    nn.Conv2d(6, 4, 3, stride=2),
    nn.Conv2d(5, 3, 1),
]


def drawn(seed: int, *shape: int) -> Tensor:
    """Channels (dimension 1, or the last of tokens) of very different ranges, shifted."""
    x = torch.from_numpy(np.random.default_rng(seed).standard_normal(shape)).float()
    channel = 1 if len(shape) == 4 else -1
    spread = torch.linspace(-1.5, 1.5, shape[channel]).exp()
    return (x.movedim(channel, -1) * spread + 0.3).movedim(-1, channel)


def seeded(module: nn.Linear | nn.Conv2d) -> nn.Linear | nn.Conv2d:
    module = copy.deepcopy(module)
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            generator = torch.Generator().manual_seed(index)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return module


def conv_layer(mode: Mode = "fixed", **settings: Any) -> QuantizedLayer:
    return QuantizedLayer.wrap(seeded(CONVS[0]), mode=mode, **settings)


def linear_layer(mode: Mode = "fixed", **settings: Any) -> QuantizedLayer:
    return QuantizedLayer.wrap(seeded(nn.Linear(10, 6)), mode=mode, **settings)


def names(layer: nn.Module) -> set[str]:
    return set(dict(layer.named_parameters()))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        (nn.Conv2d(4, 4, 3, groups=2), "without groups"),
        (nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), "of zeros"),
        (nn.Conv2d(4, 4, 3, padding="same"), "in numbers"),
        (nn.ConvTranspose2d(4, 4, 3), "a ConvTranspose2d cannot be quantized"),
        (nn.Embedding(4, 4), "an nn.Linear or an nn.Conv2d"),
    ],
)
def test_other_modules_are_refused(module: nn.Module, message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        QuantizedLayer.wrap(module)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_bits": 1}, "weight_bits is 1: give a whole number from 2 to 8"),
        ({"activation_bits": 9}, "activation_bits is 9"),
        ({"weight_bits": 6.0}, r"weight_bits is 6\.0"),
        ({"weight_bits": True}, "weight_bits is True"),
        ({"mode": "exact"}, "choose paper or fixed"),
        ({"s_alpha": 1.5}, r"s_alpha is 1\.5: give a number from 0 to 1"),
        ({"s_alpha": float("nan")}, "s_alpha is nan"),
        ({"split": 1}, "split is 1: give True or False"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        QuantizedLayer.wrap(nn.Linear(4, 4), **settings)


def test_one_channel_has_no_halves() -> None:
    with pytest.raises(PipelineError, match="Conv2d 1 -> 4: one input channel has no halves"):
        QuantizedLayer.wrap(nn.Conv2d(1, 4, 3), split=True)


def test_defaults() -> None:
    assert QuantizedLayer.wrap(nn.Linear(4, 4)).settings == LayerSettings(mode="paper")
    assert isinstance(conv_layer(), QuantizedConv2d)
    assert isinstance(linear_layer(), QuantizedLinear)


def test_settings_need_no_torch() -> None:
    program = "import sys, pipelines.passionsr.settings; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


@pytest.mark.parametrize("split", [False, True])
def test_names_of_parameters(split: bool) -> None:
    halves = range(1 + split)
    fixed = {"scale_factor", "offset"} | {
        f"{part}_quantizer_{i}.{bound}"
        for i in halves
        for part, bound in (("weight", "x_max"), ("act", "x_min"), ("act", "x_max"))
    }
    paper = fixed | {f"weight_quantizer_{i}.x_min" for i in halves}
    paper |= {"bias_quantizer.x_min", "bias_quantizer.x_max"}
    assert names(conv_layer("fixed", split=split)) == fixed
    layer = conv_layer("paper", split=split)
    assert names(layer) == paper == set(layer.state_dict())
    both = {*layer.let_parameters(), *layer.bound_parameters()}
    assert both == set(layer.parameters())
    assert not any("bias" in name for name in names(QuantizedLayer.wrap(nn.Linear(4, 4, False))))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("split", [False, True])
def test_only_the_first_call_takes_from_its_input(mode: Mode, split: bool) -> None:
    layer = conv_layer(mode, split=split)
    assert not layer.initialized
    layer(drawn(1, 2, 6, 5, 7))
    assert layer.initialized
    before = copy.deepcopy(layer.state_dict())
    layer(10 * drawn(2, 2, 6, 5, 7))
    assert all(torch.equal(before[name], value) for name, value in layer.state_dict().items())


@pytest.mark.parametrize("mode", MODES)
def test_what_was_set_stays(mode: Mode) -> None:
    layer = conv_layer(mode, split=True)
    scale = torch.linspace(0.5, 2, 6).view(1, 6, 1, 1)
    layer.set_scale(scale)
    layer.set_activation_bounds((-1.0, -2.0), (torch.tensor(3.0), 4.0))
    layer(drawn(1, 2, 6, 5, 7))
    assert torch.equal(layer.scale_factor, scale)
    state = layer.state_dict()
    assert [float(state[f"act_quantizer_{i}.x_min"]) for i in (0, 1)] == [-1, -2]
    assert [float(state[f"act_quantizer_{i}.x_max"]) for i in (0, 1)] == [3, 4]
    half = (layer.weight * scale)[:, 3:].flatten(1)
    expected = half.amax(1) if mode == "paper" else half.abs().amax(1)
    torch.testing.assert_close(state["weight_quantizer_1.x_max"].flatten(), expected)


@pytest.mark.parametrize("mode", MODES)
def test_full_precision_takes_nothing(mode: Mode) -> None:
    layer, module = conv_layer(mode), seeded(CONVS[0])
    layer.quantizing = False
    x = drawn(1, 2, 6, 5, 7)
    torch.testing.assert_close(layer(x), module(x))
    assert not layer.initialized


@pytest.mark.parametrize("mode", MODES)
def test_without_transformation_the_scale_stays_one(mode: Mode) -> None:
    layer = linear_layer(mode)
    layer.transforming = False
    x = drawn(1, 2, 7, 10)
    layer(x)
    assert layer.initialized
    assert (layer.scale_factor == 1).all()
    assert float(layer.state_dict()["act_quantizer_0.x_max"]) == float(x.max())
    with torch.no_grad():
        expected = layer(x)
        layer.offset.fill_(0.1)
        layer.scale_factor.fill_(2)
        assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_first_input_of_no_numbers_is_refused(mode: Mode, value: float) -> None:
    layer = linear_layer(mode)
    x = drawn(1, 2, 7, 10)
    x[0, 3, 2] = value
    with pytest.raises(PipelineError, match="Linear 10 -> 6: its input has values that are no"):
        layer(x)
    assert not layer.initialized


@pytest.mark.parametrize("mode", MODES)
def test_a_constant_first_input_is_refused(mode: Mode) -> None:
    layer = conv_layer(mode)
    layer.name = "mid_block.resnets.0.conv1"
    with pytest.raises(PipelineError, match=r"^mid_block\.resnets\.0\.conv1: .*its input is const"):
        layer(torch.ones(1, 6, 4, 4))


def test_wrong_channels_are_refused() -> None:
    with pytest.raises(PipelineError, match=r"shape \(2, 5, 4, 4\) does not have 6 channels"):
        conv_layer()(torch.zeros(2, 5, 4, 4))
    with pytest.raises(PipelineError, match=r"shape \(10, 3\) does not have 10 channels"):
        linear_layer()(torch.zeros(10, 3))


@pytest.mark.parametrize("bounds", [(1.0, 1.0), (2.0, -1.0), (float("nan"), 1.0)])
def test_bounds_out_of_order_are_refused(bounds: tuple[float, float]) -> None:
    layer = linear_layer()
    with pytest.raises(PipelineError, match="Linear 10 -> 6"):
        layer.set_activation_bounds(*bounds)


def test_published_split_cuts_tokens() -> None:
    """The second half of the tokens has a range of its own, whatever their channels."""
    layer = linear_layer("paper", split=True)
    layer.transforming = False
    x = drawn(1, 2, 7, 10)
    layer(x)
    state = layer.state_dict()
    assert float(state["act_quantizer_0.x_max"]) == float(x[:, :3].max())
    assert float(state["act_quantizer_1.x_max"]) == float(x[:, 3:].max())
    fixed = linear_layer("fixed", split=True)
    fixed.transforming = False
    fixed(x)
    state = fixed.state_dict()
    assert float(state["act_quantizer_0.x_max"]) == float(x[..., :5].max())
    assert float(state["act_quantizer_1.x_max"]) == float(x[..., 5:].max())


def test_published_split_of_one_token_is_refused() -> None:
    with pytest.raises(PipelineError, match="one token has no halves"):
        linear_layer("paper", split=True)(drawn(1, 2, 1, 10))


def test_published_scale_of_two_dimensions_uses_one_maximum() -> None:
    x, weight = drawn(1, 4, 10), seeded(nn.Linear(10, 6)).weight.detach()
    paper, fixed = linear_layer("paper"), linear_layer("fixed")
    paper(x)
    fixed(x)
    of_weight = weight.abs().amax(0)
    torch.testing.assert_close(paper.scale_factor[0], (x.abs().max() / of_weight) ** 0.3)
    torch.testing.assert_close(fixed.scale_factor[0], (x.abs().amax(0) / of_weight) ** 0.3)


def integers(layer: QuantizedLayer, x: Tensor) -> Tensor:
    """The layer computed from its segments: integer products, then everything else in float64."""
    total = torch.zeros((), dtype=torch.float64)
    conv = isinstance(layer, QuantizedConv2d)
    channel = 1 if conv else -1
    shape = (1, -1, 1, 1) if conv else (-1,)
    for segment in layer.segments():
        part = x.narrow(channel, segment.start, segment.stop - segment.start)
        steps = (part - segment.offset.view(shape)) * segment.multiplier.view(shape)
        rounded = steps.sign() * (steps.abs() + 0.5).floor()
        codes = (rounded - segment.zero).clamp(0, segment.levels).to(torch.int64)
        assert segment.weight_codes.dtype == torch.int8
        assert segment.weight_codes.abs().max() <= 2 ** (layer.settings.weight_bits - 1) - 1
        weight = segment.weight_codes.double()
        if isinstance(layer, QuantizedConv2d):
            padding = [side for pad in reversed(layer.padding) for side in (pad, pad)]
            codes = F.pad(codes, padding, value=-segment.zero)  # the code of zero
            product = F.conv2d((codes + segment.zero).double(), weight, None, layer.stride)
        else:
            product = F.linear((codes + segment.zero).double(), weight)
        assert torch.equal(product, product.round())
        steps = segment.weight_steps.double() * segment.input_step.double()
        total = total + product * steps.view(shape)
    weight, offset = layer.weight.double(), layer.offset.detach().double()
    if isinstance(layer, QuantizedConv2d):
        shift = offset.expand(1, -1, *x.shape[2:])
        total = total + F.conv2d(shift, weight, None, layer.stride, layer.padding)
    else:
        total = total + F.linear(offset[0], weight)
    return total if layer.bias is None else total + layer.bias.double().view(shape)


@pytest.mark.parametrize("bits", [8, 6])
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("module", [*CONVS, nn.Linear(9, 6), nn.Linear(8, 5, bias=False)], ids=str)
def test_segments_are_the_simulation(module: nn.Linear | nn.Conv2d, split: bool, bits: int) -> None:
    layer = QuantizedLayer.wrap(seeded(module), bits, bits, split, "fixed")
    inputs = module.weight.shape[1]
    shape = (2, inputs, 9, 7) if isinstance(module, nn.Conv2d) else (2, 11, inputs)
    layer(drawn(1, *shape))
    with torch.no_grad():
        layer.offset.copy_(0.2 * torch.randn(layer.offset.shape, generator=torch.manual_seed(3)))
        for bound in layer.bound_parameters():
            bound *= 0.7
        x = drawn(2, *shape)
        y, reference = layer(x), integers(layer, x)
    assert float((y - reference).abs().max() / reference.abs().max()) < 1e-5
    assert sum(s.stop - s.start for s in layer.segments()) == inputs


@pytest.mark.parametrize("layer", [conv_layer("paper"), conv_layer("fixed")])
def test_no_segments_of_mode_paper_or_before_calibration(layer: QuantizedLayer) -> None:
    with pytest.raises(PipelineError, match="only a layer of mode fixed whose bounds are set"):
        layer.segments()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("split", [False, True])
def test_state_goes_into_a_fresh_layer(mode: Mode, split: bool) -> None:
    layer, fresh = (conv_layer(mode, split=split, weight_bits=6) for _ in range(2))
    layer(drawn(1, 2, 6, 5, 7))
    fresh.load_state_dict(layer.state_dict())
    assert fresh.initialized
    x = drawn(2, 2, 6, 5, 7)
    assert torch.equal(fresh(x), layer(x))


def test_a_partial_state_leaves_the_rest_to_the_first_call() -> None:
    layer, fresh = conv_layer(), conv_layer()
    layer(drawn(1, 2, 6, 5, 7))
    state = {name: value for name, value in layer.state_dict().items() if "act_q" not in name}
    fresh.load_state_dict(state, strict=False)
    fresh.load_state_dict({}, strict=False)
    assert not fresh.initialized
    fresh(drawn(2, 2, 6, 5, 7))
    assert torch.equal(fresh.scale_factor, layer.scale_factor)
    assert fresh.act_quantizers[0].x_max != layer.act_quantizers[0].x_max


@pytest.mark.parametrize("mode", MODES)
def test_a_kept_weight_follows_every_change(mode: Mode) -> None:
    layer, x = linear_layer(mode, weight_bits=4), drawn(1, 2, 7, 10)
    with torch.no_grad():
        first = layer(x)
        assert torch.equal(layer(x), first)
        layer.get_parameter("weight_quantizer_0.x_max").data.mul_(0.5)
        second = layer(x)
        assert not torch.equal(second, first)
        layer.scale_factor.data.mul_(1.3)
        third = layer(x)
        assert not torch.equal(third, second)
        layer.weight.mul_(0.9)
        fourth = layer(x)
        assert not torch.equal(fourth, third)
        layer.weight = layer.weight * 0.9
        fifth = layer(x)
        assert not torch.equal(fifth, fourth)
        layer.weight = layer.weight * 0.9
        sixth = layer(x)
        assert not torch.equal(sixth, fifth)
    torch.testing.assert_close(layer(x), sixth, rtol=0, atol=0)


def test_a_weight_kept_in_inference_mode_does_not_reach_training() -> None:
    layer, x = conv_layer(), drawn(1, 2, 6, 5, 7)
    with torch.inference_mode():
        kept = layer(x)
    y = layer(x)
    assert torch.equal(y, kept)
    y.square().mean().backward()
    assert all(parameter.grad is not None for parameter in layer.parameters())


@pytest.mark.parametrize("mode", MODES)
def test_learning_brings_the_layer_closer_to_full_precision(mode: Mode) -> None:
    layer = conv_layer(mode, weight_bits=4, activation_bits=4, split=True)
    x = drawn(1, 4, 6, 9, 7)
    with torch.no_grad():
        target = seeded(CONVS[0])(x)
        layer(x)
        for bound in layer.bound_parameters():
            bound *= 1.5
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.02)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = (layer(x) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses[-5:]) < 0.5 * losses[0]


def test_precision_of_the_arithmetic() -> None:
    x = drawn(1, 2, 6, 5, 7)
    single = conv_layer()
    single(x)
    half = copy.deepcopy(single).half()
    assert {t.dtype for t in (*half.parameters(), *half.buffers(), half.weight)} == {torch.float32}
    assert half(x.half()).dtype == torch.float16
    assert torch.equal(half(x.half()), single(x.half().float()).half())
    double = QuantizedLayer.wrap(seeded(CONVS[0]).double(), mode="fixed")
    assert double(x.double()).dtype == torch.float64
    assert double.scale_factor.dtype == torch.float64


def test_a_layer_follows_to_another_device() -> None:
    layer = conv_layer("paper", split=True)
    layer.mark_initialized()
    layer.to("meta")
    tensors = (*layer.parameters(), *layer.buffers(), layer.weight, layer.bias)
    assert all(tensor is not None and tensor.is_meta for tensor in tensors)
    with torch.no_grad():
        assert layer(torch.empty(2, 6, 5, 7, device="meta")).shape == (2, 8, 5, 7)


def test_weights_are_shared_and_frozen() -> None:
    module = seeded(nn.Linear(10, 6))
    layer = QuantizedLayer.wrap(module, mode="fixed")
    assert layer.weight.data_ptr() == module.weight.data_ptr()
    assert not layer.weight.requires_grad
