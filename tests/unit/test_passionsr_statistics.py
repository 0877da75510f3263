"""Scales and bounds from statistics: what each method takes, and what it refuses."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn

from pipelines.contract import PipelineError
from pipelines.passionsr.attention import QuantizedAttention
from pipelines.passionsr.choices import Method
from pipelines.passionsr.layer import QuantizedLayer
from pipelines.passionsr.settings import LayerSettings, Mode
from pipelines.passionsr.statistics import (
    STARTS,
    initialise,
    initialise_published,
    watching,
)
from pipelines.stable_diffusion.unet_blocks import Attention

Tensor = torch.Tensor


def network(mode: Mode, *, split: bool = False, bits: int = 6) -> tuple[nn.Module, nn.Module]:
    """Two convolutions and a linear layer, plain and quantized."""
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv2d(4, 8, 3, padding=1),
        nn.SiLU(),
        nn.Conv2d(8, 8, 1),
        nn.Flatten(2),
        nn.Linear(36, 5),
    )
    plain[0].weight.data[:, 1] *= 30
    quantized = copy.deepcopy(plain)
    for index in (0, 2, 4):
        quantized[index] = QuantizedLayer.wrap(
            plain[index], bits, bits, split=split, mode=mode, s_alpha=0.5
        )
    return plain, quantized


def layers_of(quantized: nn.Module) -> dict[str, QuantizedLayer]:
    return {n: m for n, m in quantized.named_modules() if isinstance(m, QuantizedLayer)}


def pictures() -> list[Tensor]:
    torch.manual_seed(1)
    channels = torch.tensor([0.1, 1.0, 5.0, 20.0])[:, None, None]
    return [torch.randn(1, 4, 6, 6) * channels + channels for _ in range(6)]


def sending(quantized: nn.Module) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            for picture in pictures():
                quantized(picture)

    return run


def inputs_of(quantized: nn.Module) -> dict[str, list[Tensor]]:
    """What each layer sees with nothing quantized."""
    seen: dict[str, list[Tensor]] = {name: [] for name in layers_of(quantized)}
    for layer in layers_of(quantized).values():
        layer.quantizing = False
    with watching(layers_of(quantized), lambda name, x: seen[name].append(x)):
        sending(quantized)()
    for layer in layers_of(quantized).values():
        layer.quantizing = True
    return seen


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("method", ["maxmin", "smoothquant", "dqc"])
def test_bounds_are_those_of_a_pass_with_the_scales_frozen(method: Method, split: bool) -> None:
    _, quantized = network("fixed", split=split)
    initialise(layers_of(quantized), sending(quantized), method)
    for name, inputs in inputs_of(quantized).items():
        layer = layers_of(quantized)[name]
        smoothed = [layer.transformed(x).detach() for x in inputs]
        parts = zip(
            *(x.tensor_split(2 if split else 1, layer.channels) for x in smoothed), strict=True
        )
        for index, part in enumerate(parts):
            values = torch.cat([x.flatten() for x in part])
            quantizer = layer.get_submodule(f"act_quantizer_{index}")
            low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
            assert quantizer.x_min.item() == pytest.approx(low, rel=1e-6, abs=1e-6)
            assert quantizer.x_max.item() == pytest.approx(high, rel=1e-6, abs=1e-6)


def test_maxmin_smooths_nothing() -> None:
    _, quantized = network("fixed")
    initialise(layers_of(quantized), sending(quantized), "maxmin")
    for layer in layers_of(quantized).values():
        assert bool((layer.scale_factor == 1).all())
        assert bool((layer.offset == 0).all())
        assert layer.quantizing


def test_smoothquant_takes_the_published_exponent() -> None:
    _, quantized = network("fixed")
    initialise(layers_of(quantized), sending(quantized), "smoothquant")
    layer = layers_of(quantized)["0"]
    peak = torch.cat(inputs_of(quantized)["0"]).abs().amax((0, 2, 3))
    weight = layer.weight.abs().amax((0, 2, 3))
    assert torch.allclose(layer.scale_factor.flatten().detach(), (peak / weight) ** 0.5, rtol=1e-5)
    assert bool((layer.offset == 0).all())


def error_of(layer: nn.Module, reference: nn.Module, inputs: list[Tensor]) -> float:
    with torch.no_grad():
        return sum(float((layer(x) - reference(x)).square().mean()) for x in inputs)


def smoothed_start(module: nn.Module, alpha: float, inputs: list[Tensor]) -> QuantizedLayer:
    layer = QuantizedLayer.wrap(module, 6, 6, mode="fixed", s_alpha=alpha)

    def run() -> None:
        for x in inputs:
            layer(x)

    initialise({"layer": layer}, run, "smoothquant")
    return layer


def test_each_layer_starts_where_its_output_errs_least() -> None:
    plain, quantized = network("fixed")
    initialise(layers_of(quantized), sending(quantized), "dqc")
    inputs = inputs_of(quantized)
    for index, layer in layers_of(quantized).items():
        reference, tried_on = plain.get_submodule(index), inputs[index][:2]
        chosen = error_of(layer, reference, tried_on)
        for alpha in {start.alpha for start in STARTS}:
            other = smoothed_start(reference, alpha, inputs[index])
            assert chosen <= error_of(other, reference, tried_on) * (1 + 1e-4)


def test_methods_come_closer_to_full_precision() -> None:
    errors = []
    for method in ("maxmin", "smoothquant", "dqc"):
        plain, quantized = network("fixed")
        initialise(layers_of(quantized), sending(quantized), method)
        errors.append(error_of(quantized, plain, pictures()))
    assert errors[0] > 2 * errors[1]
    assert errors[1] > 1.1 * errors[2]


def test_what_layers_had_before_is_forgotten() -> None:
    _, once = network("fixed")
    initialise(layers_of(once), sending(once), "maxmin")
    _, twice = network("fixed")
    initialise(layers_of(twice), sending(twice), "dqc")
    initialise(layers_of(twice), sending(twice), "maxmin")
    for name, tensor in once.state_dict().items():
        assert torch.equal(tensor, twice.state_dict()[name])


@pytest.mark.parametrize(
    ("value", "said"), [(float("nan"), "no numbers"), (float("inf"), "infinite"), (3.0, "constant")]
)
def test_inputs_without_a_range_name_the_layer(value: float, said: str) -> None:
    _, quantized = network("fixed")
    picture = torch.full((1, 4, 6, 6), value)
    with pytest.raises(PipelineError, match=f"^0: .*{said}"):
        initialise(layers_of(quantized), lambda: quantized(picture), "smoothquant")


def test_layer_that_no_picture_reaches() -> None:
    _, quantized = network("fixed")
    with pytest.raises(PipelineError, match="no picture of the calibration reached"):
        initialise(layers_of(quantized), lambda: None, "maxmin")


def test_works_where_pipelines_do() -> None:
    with torch.inference_mode():
        _, quantized = network("fixed")
        initialise(layers_of(quantized), sending(quantized), "dqc")
        assert bool(quantized(pictures()[0]).isfinite().all())


def test_published_statistics_move_scales_and_keep_bounds() -> None:
    _, quantized = network("paper")
    first, second = pictures()[0], 3 * pictures()[1]
    quantized_once = copy.deepcopy(quantized)
    with torch.no_grad():
        quantized_once(first)
    runs = [lambda: quantized(first), lambda: quantized(second)]
    initialise_published(layers_of(quantized), runs)
    layer, before = layers_of(quantized)["0"], layers_of(quantized_once)["0"]
    peak = second.abs().amax((0, 2, 3))
    own = (peak / layer.weight.abs().amax((0, 2, 3))) ** 0.5
    expected = 0.9 * before.scale_factor.flatten() + 0.1 * own
    assert torch.allclose(layer.scale_factor.flatten(), expected, rtol=1e-5)
    for name, bound in before.named_parameters():
        if name.endswith(("x_min", "x_max")):
            assert torch.equal(bound, layer.get_parameter(name))


def test_published_statistics_of_attention_move_scales_and_bounds() -> None:
    torch.manual_seed(0)
    plain = Attention(8, 8, 2)
    settings = LayerSettings(mode="paper", s_alpha=0.5)
    block, once = (QuantizedAttention(copy.deepcopy(plain), settings) for _ in range(2))
    first, second = torch.randn(1, 6, 8), 3 * torch.randn(1, 6, 8)
    initialise_published({"a": block}, [lambda: block(first), lambda: block(second)])
    with torch.no_grad():
        once(first)
        query, keys = (layer(second).unflatten(-1, (2, 4)) for layer in (plain.to_q, plain.to_k))
        own = (keys.abs().amax((0, 1, 2)) / query.abs().amax((0, 1, 2))) ** 0.5
        expected = 0.9 * once.scale_factor_qk + 0.1 * own
    assert torch.allclose(block.scale_factor_qk, expected, rtol=1e-4)
    assert not torch.equal(block.scale_factor_vw, once.scale_factor_vw)
    moved = block.get_submodule("act_quantizer_v"), once.get_submodule("act_quantizer_v")
    assert moved[0].x_max > moved[1].x_max
