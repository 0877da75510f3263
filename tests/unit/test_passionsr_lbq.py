"""Learnable boundary quantizers: forward, and gradients against the table of the specification."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.contract import PipelineError
from pipelines.passionsr import BoundaryQuantizer as PublicQuantizer
from pipelines.passionsr.lbq import (
    SMALLEST_RANGE,
    ActivationQuantizer,
    BoundaryQuantizer,
    SymmetricQuantizer,
    check_range,
    clip,
    fake_quantize,
    round_half_away,
)

Tensor = torch.Tensor
Quantize = Callable[[Tensor, Tensor, Tensor, int], Tensor]
ONE, ZERO = torch.ones((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)


def _boundary(x: Tensor, low: Tensor, high: Tensor, levels: int) -> Tensor:
    """The published quantizer with these leaves as its parameters."""
    quantizer = BoundaryQuantizer(levels, low.detach())
    quantizer.set_bounds(low.detach(), high.detach())
    quantizer.x_min, quantizer.x_max = low, high  # type: ignore[assignment]
    return torch.as_tensor(quantizer(x))


def _activation(x: Tensor, low: Tensor, high: Tensor, levels: int) -> Tensor:
    quantizer = ActivationQuantizer(levels, low.detach())
    quantizer.x_min, quantizer.x_max = low, high  # type: ignore[assignment]
    return torch.as_tensor(quantizer(x, ONE, ZERO))


def _leaf(value: Tensor | float) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.as_tensor(value, dtype=torch.float64))


def _drawn(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def _rounded(value: Tensor) -> Tensor:
    return value.sign() * (value.abs() + 0.5).floor()


def _regions(x: Tensor, low: Tensor, high: Tensor, levels: int) -> tuple[Tensor, ...]:
    """Below, inside and above the grid, with the residuals rho and zeta."""
    step = (high - low) / levels
    zero, rounded = _rounded(low / step), _rounded(x / step)
    code, zeta = rounded - zero, (zero - low / step).expand_as(x)
    return code < 0, (code >= 0) & (code <= levels), code > levels, rounded - x / step, zeta


def _table(x: Tensor, low: Tensor, high: Tensor, levels: int) -> dict[str, Tensor]:
    """Spec 2.3: what each value contributes to the gradients."""
    below, inside, above, rho, zeta = _regions(x, low, high, levels)
    assert below.any()
    assert inside.any()
    assert above.any()
    pick = lambda b, i, a: torch.where(below, b, torch.where(inside, i, a))  # noqa: E731
    none = torch.zeros_like(x)
    return {
        "x": pick(none, none + 1, none),
        "high": pick(zeta / levels, rho / levels, 1 + zeta / levels),
        "low": pick(1 - zeta / levels, -rho / levels, -zeta / levels),
    }


@pytest.mark.parametrize("quantize", [fake_quantize, _boundary, _activation])
@pytest.mark.parametrize("bits", [2, 4, 6, 8])
def test_gradients_equal_the_table_per_tensor(quantize: Quantize, bits: int) -> None:
    x, low, high = _leaf(3 * _drawn(bits, 40, 7)), _leaf(-1.83), _leaf(2.71)
    weights = _drawn(bits + 100, 40, 7)
    (quantize(x, low, high, 2**bits - 1) * weights).sum().backward()
    table = _table(x.detach(), low.detach(), high.detach(), 2**bits - 1)
    assert x.grad is not None
    torch.testing.assert_close(x.grad, table["x"] * weights, rtol=0, atol=1e-12)
    for name, leaf in (("low", low), ("high", high)):
        torch.testing.assert_close(leaf.grad, (table[name] * weights).sum(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("quantize", [fake_quantize, _boundary])
@pytest.mark.parametrize("bits", [3, 8])
def test_gradients_equal_the_table_per_channel(quantize: Quantize, bits: int) -> None:
    """Bounds anywhere, also both on one side of zero."""
    x = _leaf(2 * _drawn(bits, 5, 6, 3, 3))
    low = _leaf(torch.tensor([-1.7, -0.4, 0.3, -2.2, -0.9]).view(5, 1, 1, 1))
    high = _leaf(torch.tensor([1.1, 0.9, 1.6, -0.2, 2.0]).view(5, 1, 1, 1))
    weights = _drawn(bits + 50, 5, 6, 3, 3)
    (quantize(x, low, high, 2**bits - 1) * weights).sum().backward()
    table = _table(x.detach(), low.detach(), high.detach(), 2**bits - 1)
    for name, leaf in (("low", low), ("high", high)):
        expected = (table[name] * weights).sum((1, 2, 3), keepdim=True)
        torch.testing.assert_close(leaf.grad, expected, rtol=1e-9, atol=1e-9)


def test_gradients_are_those_of_the_surrogate() -> None:
    """Rounding residuals and regions held still, central differences give the same gradients."""
    levels, h = 15, 1e-6
    point = [2 * _drawn(1, 50), torch.tensor(-1.31).double(), torch.tensor(1.93).double()]
    below, inside, above, rho, zeta = _regions(*point, levels)
    assert below.any()
    assert above.any()
    weights = _drawn(2, 50)

    def surrogate(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        step = (high - low) / levels
        zero = low / step + zeta
        code = torch.where(inside, x / step + rho - zero, levels * above)
        return (code + zero) * step * weights

    leaves = [_leaf(value) for value in point]
    (fake_quantize(*leaves, levels) * weights).sum().backward()
    for index, leaf in enumerate(leaves):
        up, down = ([*point[:index], point[index] + d, *point[index + 1 :]] for d in (h, -h))
        slope = (surrogate(*up) - surrogate(*down)) / (2 * h)
        expected = slope if index == 0 else slope.sum()
        torch.testing.assert_close(leaf.grad, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("bits", [2, 6, 8])
def test_symmetric_gradient_is_the_table_with_tied_bounds(bits: int) -> None:
    levels = 2**bits - 2
    quantizer = SymmetricQuantizer(levels, torch.zeros(4, 1, dtype=torch.float64))
    weight, bound = _leaf(2 * _drawn(bits, 4, 30)), torch.tensor([[1.3], [0.8], [2.1], [1.0]])
    quantizer.set_bounds(-bound.double() / 2, bound.double())
    factors = _drawn(bits + 1, 4, 30)
    (quantizer(weight) * factors).sum().backward()
    table = _table(weight.detach(), -bound.double(), bound.double(), levels)
    expected = ((table["high"] - table["low"]) * factors).sum(1, keepdim=True)
    torch.testing.assert_close(quantizer.x_max.grad, expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(quantizer.x_min, -quantizer.x_max)


def test_gradient_passes_at_both_ends_of_the_grid() -> None:
    value = _leaf(torch.tensor([-1.0, 0.0, 2.0, 3.0, 4.0]))
    clip(value, 0, 3).sum().backward()
    assert value.grad is not None
    assert value.grad.tolist() == [0, 1, 1, 1, 0]


def test_halves_are_rounded_away_from_zero() -> None:
    values = torch.tensor([-2.5, -1.5, -0.5, -0.4, 0.0, 0.5, 1.5, 2.5, 2.49])
    assert round_half_away(values).tolist() == [-3, -2, -1, 0, 0, 1, 2, 3, 2]


def test_forward_is_the_formula() -> None:
    x = np.float64([-9.0, -1.2, -0.31, 0.0, 0.07, 0.99, 2.0, 9.0])
    low, high, levels = -1.234, 2.345, 7
    step = (high - low) / levels
    zero = -np.floor(1.234 / step + 0.5)
    code = np.clip(np.sign(x) * np.floor(np.abs(x) / step + 0.5) - zero, 0, levels)
    found = fake_quantize(torch.from_numpy(x), *torch.tensor([low, high]).double(), levels)
    np.testing.assert_allclose(found, (code + zero) * step, rtol=1e-6)


def test_public_quantizer_is_the_formula_before_it_is_initialized() -> None:
    """Whoever writes bounds into a fresh quantizer gets spec 2.3, zero point included."""
    quantizer = PublicQuantizer(255, torch.zeros((), dtype=torch.float64))
    low, high = _leaf(-1.3), _leaf(2.1)
    with torch.no_grad():
        quantizer.x_min.copy_(low)
        quantizer.x_max.copy_(high)
    x = torch.tensor([-3.0, 0.4321, 5.0], dtype=torch.float64)
    wanted = fake_quantize(x, low, high, 255)
    assert torch.equal(quantizer(x), wanted)
    weights = torch.tensor([1.0, 10.0, 100.0])
    (quantizer(x) * weights).sum().backward()
    (wanted * weights).sum().backward()
    for bound, leaf in ((quantizer.x_min, low), (quantizer.x_max, high)):
        torch.testing.assert_close(bound.grad, leaf.grad, rtol=1e-12, atol=1e-12)


def test_published_zero_point_keeps_the_step_of_initialization() -> None:
    """Bounds shrunk to 0.8: the grid begins at 0.64 of what it began at, not at 0.8."""
    quantizer = BoundaryQuantizer(15, torch.zeros((), dtype=torch.float64))
    quantizer.set_bounds(torch.tensor(-3.0), torch.tensor(4.5))
    x = torch.tensor([-100.0, 100.0], dtype=torch.float64)
    assert quantizer(x).tolist() == [-3.0, 4.5]
    with torch.no_grad():
        for bound in quantizer.parameters():
            bound *= 0.8
    step = 0.5 * 0.8
    zero = -5.0  # R(-2.4 / 0.5); with its own step it would be R(-2.4 / 0.4) = -6
    assert quantizer(x).tolist() == pytest.approx([zero * step, (15 + zero) * step])
    quantizer(x)[0].backward()
    assert quantizer.x_min.grad is not None
    assert float(quantizer.x_min.grad) == pytest.approx(step / 0.5 - zero / 15)


def test_published_equal_bounds_reach_to_zero() -> None:
    quantizer = BoundaryQuantizer(255, torch.zeros(3, 1))
    equal = torch.tensor([[-0.7], [0.0], [0.4]])
    quantizer.set_bounds(equal, equal)
    torch.testing.assert_close(quantizer(equal), equal, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bounds", [(0.5, 2.0), (-2.0, -0.5), (0.3, -0.4), (0.0, 0.0), (1.0, 0.0)])
def test_fixed_bounds_stay_in_order_around_zero(bounds: tuple[float, float]) -> None:
    """Wherever learning left them; and they can be learned back."""
    quantizer = ActivationQuantizer(255, torch.zeros(()))
    quantizer.mark_initialized()
    with torch.no_grad():
        quantizer.x_min.fill_(bounds[0])
        quantizer.x_max.fill_(bounds[1])
    step, zero = (part.detach() for part in quantizer.grid())
    low, high = float(zero * step), float((255 + zero) * step)
    assert low <= 0 <= high
    assert high - low >= SMALLEST_RANGE * 0.999
    x = torch.linspace(-3, 3, 50)
    y = quantizer(x, torch.ones(()), torch.zeros(()))
    assert y.isfinite().all()
    y.square().sum().backward()
    assert quantizer.x_min.grad is not None
    assert quantizer.x_max.grad is not None
    assert quantizer.x_min.grad != 0
    assert quantizer.x_max.grad != 0


@pytest.mark.parametrize("bound", [0.0, -1.0])
def test_symmetric_bound_stays_positive(bound: float) -> None:
    quantizer = SymmetricQuantizer(254, torch.zeros(2, 1))
    with torch.no_grad():
        quantizer.x_max.fill_(bound)
    assert (quantizer.step() > 0).all()
    y = quantizer(torch.ones(2, 3))
    assert (y > 0).all()
    y.sum().backward()
    assert quantizer.x_max.grad is not None
    assert (quantizer.x_max.grad > 0).all()


def test_fixed_bounds_are_widened_to_zero() -> None:
    quantizer = ActivationQuantizer(255, torch.zeros(()))
    for low, high, expected in ((0.5, 2.0, [0.0, 2.0]), (-3.0, -1.0, [-3.0, SMALLEST_RANGE])):
        quantizer.set_bounds(torch.tensor(low), torch.tensor(high))
        assert [float(b.detach()) for b in quantizer.parameters()] == pytest.approx(expected)


@settings(derandomize=True, deadline=None, max_examples=60)
@given(
    low=st.floats(-50, -0.01),
    high=st.floats(0.01, 50),
    bits=st.integers(2, 8),
    scale=st.floats(0.1, 10),
    offset=st.floats(-2, 2),
)
def test_fixed_grid(low: float, high: float, bits: int, scale: float, offset: float) -> None:
    """Zero is on the grid, in its range nothing moves by more than half a step, twice is once."""
    quantizer = ActivationQuantizer(2**bits - 1, torch.zeros((), dtype=torch.float64))
    quantizer.set_bounds(torch.tensor(low), torch.tensor(high))
    s, d = torch.tensor(scale).double(), torch.tensor(offset).double()
    with torch.no_grad():
        step, zero = quantizer.grid()
        smoothed = torch.linspace(float(zero * step), float((2**bits - 1 + zero) * step), 101)
        y = quantizer(smoothed.double() * s + d, s, d)
        assert float((y - smoothed).abs().max()) <= float(step) * (0.5 + 1e-5)
        assert float(quantizer(d, s, d)) == 0
        torch.testing.assert_close(quantizer(y * s + d, s, d), y)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_range_of_no_numbers_is_refused(value: float) -> None:
    with pytest.raises(PipelineError, match=r"mid\.conv1: its input has values that are no num"):
        check_range(torch.tensor(0.0), torch.tensor(value), "mid.conv1")


def test_a_constant_is_refused() -> None:
    with pytest.raises(
        PipelineError, match=r"mid\.conv1: from 2\.5 to 2\.5 is no range, its input is"
    ):
        check_range(torch.tensor(2.5), torch.tensor(2.5), "mid.conv1")
