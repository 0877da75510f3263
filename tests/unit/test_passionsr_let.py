"""Equivalent transformations leave the full-precision function as it is, borders included."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from pipelines.passionsr.layer import QuantizedLayer
from pipelines.passionsr.let import convolved_shift, smoothing_scale, taps_inside
from pipelines.passionsr.settings import Mode

Tensor = torch.Tensor
GEOMETRIES = [
    # kernel, stride, padding, dilation, height, width
    (3, 1, 1, 1, 7, 5),
    (3, 1, 0, 1, 6, 9),
    (3, 2, 1, 1, 8, 7),
    (3, 2, 0, 1, 9, 8),
    (1, 1, 0, 1, 4, 5),
    (1, 1, 1, 1, 4, 5),
    (5, 3, 2, 1, 7, 11),
    (3, 1, 2, 2, 6, 7),
    (3, 1, 1, 1, 1, 2),
]


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def transformed_layer(module: nn.Module, mode: Mode) -> QuantizedLayer:
    """In full precision with a large scale and shift."""
    layer = QuantizedLayer.wrap(module, mode=mode)
    layer.set_scale(drawn(5, *layer.scale_factor.shape).exp())
    with torch.no_grad():
        layer.offset.copy_(drawn(6, *layer.offset.shape))
    layer.quantizing = False
    return layer


def conv(geometry: tuple[int, ...], *, bias: bool = True) -> nn.Conv2d:
    kernel, stride, padding, dilation, *_ = geometry
    module = nn.Conv2d(4, 5, kernel, stride, padding, dilation, bias=bias).double()
    with torch.no_grad():
        module.weight.copy_(drawn(7, *module.weight.shape))
    return module


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_convolution_of_a_constant_map(geometry: tuple[int, ...]) -> None:
    _, stride, padding, dilation, height, width = geometry
    weight, shift = conv(geometry).weight.detach(), drawn(1, 1, 4, 1, 1)
    expected = F.conv2d(shift.expand(1, 4, height, width), weight, None, stride, padding, dilation)
    pairs = ((value, value) for value in (stride, padding, dilation))
    found = convolved_shift(shift, weight, (height, width), *pairs)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_sides_may_differ() -> None:
    weight, shift = drawn(2, 3, 4, 3, 5), drawn(1, 1, 4, 1, 1)
    geometry = ((2, 1), (0, 2), (1, 1))
    expected = F.conv2d(shift.expand(1, 4, 9, 6), weight, None, *geometry)
    found = convolved_shift(shift, weight, (9, 6), *geometry)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)


def test_taps_inside_a_padded_row() -> None:
    inside = taps_inside(4, 3, 1, 1, 1, torch.device("cpu"))
    assert inside.int().tolist() == [[0, 1, 1], [1, 1, 1], [1, 1, 1], [1, 1, 0]]


@pytest.mark.parametrize("mode", ["paper", "fixed"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_convolution_is_unchanged(geometry: tuple[int, ...], bias: bool, mode: Mode) -> None:
    module = conv(geometry, bias=bias)
    x = drawn(3, 2, 4, *geometry[-2:])
    layer = transformed_layer(module, mode)
    torch.testing.assert_close(layer(x), module(x), rtol=0, atol=1e-10)
    assert float((layer.transformed(x) - x).detach().abs().max()) > 0.1


@pytest.mark.parametrize("shape", [(6, 9), (2, 7, 9), (2, 3, 4, 9)])
def test_linear_is_unchanged(shape: tuple[int, ...]) -> None:
    module, x = nn.Linear(9, 4).double(), drawn(3, *shape)
    layer = transformed_layer(module, "fixed")
    torch.testing.assert_close(layer(x), module(x), rtol=0, atol=1e-10)


@pytest.mark.parametrize("bias", [True, False])
def test_published_linear_is_off_by_twice_the_shift(bias: bool) -> None:
    module, x = nn.Linear(9, 4, bias=bias).double(), drawn(3, 2, 7, 9)
    layer = transformed_layer(module, "paper")
    error = layer(x) - module(x)
    expected = 2 * F.linear(layer.offset, module.weight).expand(2, 7, 4)
    torch.testing.assert_close(error, expected, rtol=0, atol=1e-10)


def test_gradients_of_an_exact_transformation_vanish() -> None:
    """The function does not depend on scale and shift, so neither does a loss."""
    geometry = GEOMETRIES[2]
    layer = transformed_layer(conv(geometry), "fixed")
    layer(drawn(3, 2, 4, *geometry[-2:])).square().sum().backward()
    for parameter in layer.let_parameters():
        assert parameter.grad is not None
        assert float(parameter.grad.abs().max()) < 1e-10


def test_smoothing_scale() -> None:
    scale = smoothing_scale(torch.tensor([8.0, 0.0, 2.0]), torch.tensor([2.0, 1.0, 0.0]), 0.5)
    torch.testing.assert_close(scale, torch.tensor([2.0, 1e-5**0.5, 2e5**0.5]))
