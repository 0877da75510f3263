"""Quantized attention against the block it replaces."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from pipelines.contract import PipelineError
from pipelines.passionsr.attention import QuantizedAttention
from pipelines.passionsr.layer import QuantizedLayer
from pipelines.passionsr.settings import LayerSettings, Mode
from pipelines.stable_diffusion.unet_blocks import Attention

Tensor = torch.Tensor
MODES: list[Mode] = ["paper", "fixed"]


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape))


def block(context: int = 12) -> Attention:
    attention = Attention(12, context, heads=3).double()
    with torch.no_grad():
        for index, parameter in enumerate(attention.parameters()):
            parameter.copy_(drawn(index + 10, *parameter.shape))
    return attention


def quantized(mode: Mode, bits: int = 8, context: int = 12) -> QuantizedAttention:
    settings = LayerSettings(activation_bits=bits, mode=mode)
    return QuantizedAttention(block(context), settings)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cross", [False, True])
def test_transformation_leaves_the_function(mode: Mode, cross: bool) -> None:
    attention, plain = quantized(mode, context=8 if cross else 12), block(8 if cross else 12)
    x, context = drawn(1, 2, 9, 12), drawn(2, 2, 5, 8)
    text = plain.keys_values(context) if cross else None
    attention(x, text)
    assert attention.initialized
    with torch.no_grad():
        for parameter in attention.let_parameters():
            assert not (parameter == 1).all()
            parameter *= drawn(4, *parameter.shape).exp()
    attention.quantizing = False
    torch.testing.assert_close(attention(x, text), plain(x, text), rtol=0, atol=1e-10)


@pytest.mark.parametrize("mode", MODES)
def test_error_falls_with_the_bits(mode: Mode) -> None:
    x = drawn(1, 2, 9, 12)
    expected = block()(x)
    errors = [float((quantized(mode, b)(x) - expected).detach().square().mean()) for b in (4, 6, 8)]
    assert errors[0] > 4 * errors[1] > 16 * errors[2] > 0


@pytest.mark.parametrize("mode", MODES)
def test_keys_and_values_are_those_of_the_block(mode: Mode) -> None:
    context = drawn(2, 2, 5, 8)
    pairs = zip(
        quantized(mode, context=8).keys_values(context), block(8).keys_values(context), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_scales_of_the_first_call() -> None:
    attention, x = quantized("paper"), drawn(1, 2, 9, 12)
    attention(x)
    query, keys, values = (tensor.detach() for tensor in block()._queries_keys_values(x))
    of_keys, of_query = (t.abs().amax((0, 1, 2)) for t in (keys, query))
    torch.testing.assert_close(attention.scale_factor_qk, (of_keys / of_query) ** 0.3)
    assert attention.scale_factor_vw.shape == (9,)
    fine = QuantizedAttention(block(), LayerSettings(mode="paper"))
    fine(x)
    weights = (query @ keys.mT / 2).softmax(-1)
    expected = (values.abs().amax((0, 1, 3)) / weights.amax((0, 1, 2))) ** 0.3
    torch.testing.assert_close(fine.scale_factor_vw.detach(), expected, rtol=0.02, atol=0)


def test_names_of_parameters() -> None:
    bounds = {f"act_quantizer_{o}.{b}" for o in "qkvw" for b in ("x_min", "x_max")}
    projections = {name for name, _ in block().named_parameters()}
    paper = {name for name, _ in quantized("paper").named_parameters()}
    fixed = {name for name, _ in quantized("fixed").named_parameters()}
    assert paper == projections | bounds | {"scale_factor_qk", "scale_factor_vw"}
    assert fixed == projections | bounds | {"scale_factor_qk"}
    attention = quantized("fixed")
    assert len(attention.bound_parameters()) == 8
    assert len(attention.let_parameters()) == 1


@pytest.mark.parametrize("mode", MODES)
def test_gradients_reach_every_parameter(mode: Mode) -> None:
    attention, x = quantized(mode, 4), drawn(1, 2, 9, 12)
    attention(x)
    attention(x).square().mean().backward()
    for parameter in (*attention.let_parameters(), *attention.bound_parameters()):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("mode", MODES)
def test_only_the_first_call_takes_from_its_input(mode: Mode) -> None:
    attention = quantized(mode)
    attention(drawn(1, 2, 9, 12))
    before = copy.deepcopy(attention.state_dict())
    attention(5 * drawn(2, 2, 9, 12))
    assert all(torch.equal(before[name], value) for name, value in attention.state_dict().items())


@pytest.mark.parametrize("mode", MODES)
def test_state_goes_into_a_fresh_block(mode: Mode) -> None:
    attention, fresh = quantized(mode), quantized(mode)
    attention(drawn(1, 2, 9, 12))
    fresh.load_state_dict(attention.state_dict())
    assert fresh.initialized
    x = drawn(2, 2, 9, 12)
    assert torch.equal(fresh(x), attention(x))


def test_a_calibration_of_mode_paper_works_at_its_own_size_alone() -> None:
    attention = quantized("paper")
    attention(drawn(1, 2, 9, 12))
    with pytest.raises(PipelineError, match="calibrated for 9 key tokens, given 16"):
        attention(drawn(1, 2, 16, 12))
    fixed = quantized("fixed")
    fixed(drawn(1, 2, 9, 12))
    assert fixed(drawn(1, 2, 16, 12)).shape == (2, 16, 12)


def test_projections_may_be_quantized_layers() -> None:
    attention = quantized("fixed")
    for name in ("to_q", "to_k", "to_v"):
        layer = QuantizedLayer.wrap(attention.get_submodule(name), mode="fixed")
        attention.register_module(name, layer)
    x = drawn(1, 2, 9, 12)
    expected = block()(x)
    error = (attention(x) - expected).detach()
    assert 0 < float(error.square().mean() / expected.detach().square().mean()) < 1e-3


@pytest.mark.parametrize("mode", MODES)
def test_a_block_initialized_in_inference_mode_can_be_trained(mode: Mode) -> None:
    attention, x = quantized(mode), drawn(1, 2, 9, 12)
    with torch.inference_mode():
        attention(x)
    attention(x).square().mean().backward()
    assert all(p.grad is not None for p in attention.let_parameters())


@pytest.mark.parametrize("mode", MODES)
def test_without_transformation_the_scales_stay_one(mode: Mode) -> None:
    attention, x = quantized(mode), drawn(1, 2, 9, 12)
    attention.transforming = False
    attention(x)
    assert attention.initialized
    assert (attention.scale_factor_qk == 1).all()
    assert float(attention.state_dict()["act_quantizer_w.x_max"]) > 0.9


def test_a_block_with_one_product_is_refused() -> None:
    attention = block()
    attention.to_qkv = torch.nn.Linear(12, 36)
    with pytest.raises(PipelineError, match="set fused_qkv=false"):
        QuantizedAttention(attention, LayerSettings())


def test_constant_operands_are_refused() -> None:
    attention = quantized("fixed")
    attention.name = "mid_block.attentions.0.attn1"
    with pytest.raises(PipelineError, match=r"attn1, operand q: .* its input is constant"):
        attention(torch.zeros(2, 9, 12, dtype=torch.float64))


def test_a_cast_leaves_the_scales() -> None:
    attention = quantized("paper").float()
    attention(drawn(1, 2, 9, 12).float())
    attention.half()
    assert attention.to_q.weight.dtype == torch.float16
    assert attention.scale_factor_vw.dtype == torch.float64
    assert attention(drawn(1, 2, 9, 12).half()).dtype == torch.float16
