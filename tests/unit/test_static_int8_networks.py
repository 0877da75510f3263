"""Flat UNet and VAE in integers: producers that write codes, residuals in the products behind."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipelines.contract import PipelineError, WorkCounts
from pipelines.diffusion.tiling import Box, VaeTile
from pipelines.passionsr.fp8 import Fp8Linear
from pipelines.passionsr.integer import make_integer
from pipelines.passionsr.layer import QuantizedLayer
from pipelines.passionsr.network import NetworkSettings, quantize_network
from pipelines.passionsr.settings import LayerSettings
from pipelines.passionsr.statistics import initialise
from pipelines.stable_diffusion.layers import CodeReader, Fusion
from pipelines.stable_diffusion.unet import UNet
from pipelines.stable_diffusion.vae import Vae, run_lockstep
from pipelines.work import WorkCounter

Tensor = torch.Tensor
UNET = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [32, 64],
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": [2, 4],
    "norm_num_groups": 8,
    "norm_eps": 1e-5,
    "cross_attention_dim": 16,
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [16, 32],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "latent_channels": 4,
}
OURS = "pipelines"


class Operators(TorchDispatchMode):
    """Which operators ran, and what int8 tensors they wrote."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if str(func).startswith(OURS):
            self.seen[func._overloadpacket._qualified_op_name.removeprefix("pipelines::")] += 1
        else:
            assert not any(
                isinstance(t, Tensor) and t.dtype == torch.int8
                for t in tree_leaves(result)
                if not func.is_view
            ), func
        return result


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(7)


def channels_last(network: nn.Module) -> None:
    network.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def quantized(
    network: nn.Module, kind: Any, run: Callable[[], object], split: bool
) -> dict[str, QuantizedLayer]:
    """In simulation, with ranges that clip a little and shifts that are not zero."""
    channels_last(network)
    settings = NetworkSettings(layer=LayerSettings(split=split), kind=kind)
    layers = quantize_network(network, settings)

    def calibrate() -> None:
        run()

    initialise(layers, calibrate, "smoothquant")
    for layer in layers.values():
        layer.requires_grad_(False)
        layer.offset.normal_(std=0.02)
        for parameter in layer.bound_parameters():
            parameter.mul_(0.95)
    return layers


def unet_run(unet: UNet, share: bool = True) -> Callable[[], Tensor]:
    """An odd latent, so that upsampling is not exact doubling; two prompts."""
    text = unet.text_keys_values(torch.randn(2, 5, 16))
    latent = torch.randn(1, 4, 9, 6).contiguous(memory_format=torch.channels_last)
    return lambda: unet(latent, text, share_prefix=share)


def relative(got: Tensor, wanted: Tensor) -> float:
    return float((got - wanted).norm() / wanted.norm())


@torch.no_grad()
@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_a_unet_in_integers_is_the_simulated_one(fused: bool, split: bool) -> None:
    unet = UNet(UNET, 999, Fusion(norm=fused, pointwise=fused))
    unet.fold_time()
    run = unet_run(unet)
    exact = run()
    layers = quantized(unet, "unet", run, split)
    simulated = run()
    became = make_integer(unet, layers)
    assert set(became) == set(layers)
    with Operators() as operators:
        integer = run()
    # Norms are summed in another order: a few codes of each layer differ by one.
    assert relative(integer, simulated) < 0.2 * relative(simulated, exact)
    assert integer.dtype == simulated.dtype
    seen = operators.seen
    own = [p for p in layers if p.endswith(("shortcut", "samplers.0.conv", "to_out.0", "proj_out"))]
    assert seen["quantize_channels"] == len(own)
    transformers = len(unet.transformers())
    resnets = sum(path.endswith("conv2") for path in layers)
    assert seen["group_norm_quantize"] == 2 * resnets + transformers
    assert seen["layer_norm_quantize"] == 3 * transformers
    assert seen["geglu_quantize"] == transformers
    assert "add_residual" not in seen
    assert "geglu" not in seen
    parts = 1 + split
    linear = sum(layer.weight.dim() == 2 for layer in layers.values())
    assert seen["static_int8_linear"] == parts * linear
    assert seen["static_int8_conv"] == parts * (len(layers) - linear)


def cut(tiles: int, height: int, width: int, result: tuple[int, int]) -> list[VaeTile]:
    """Tiles side by side, of which each gives a map of size `result`."""
    down, across = result
    return [
        VaeTile(
            source=Box(0, height, i * width, (i + 1) * width),
            crop=Box(0, down, 0, across),
            target=Box(0, down, i * across, (i + 1) * across),
        )
        for i in range(tiles)
    ]


def vae_run(vae: Vae, tiles: int) -> Callable[[], Tensor]:
    """Encoder, then decoder, on one tile or on two that share their norms' statistics."""
    image = torch.randn(1, 3, 14, 12 * tiles).contiguous(memory_format=torch.channels_last)

    def run() -> Tensor:
        moments = run_lockstep(vae.encoder, image, cut(tiles, 14, 12, (7, 6)))
        latent = moments[:, :4].contiguous(memory_format=torch.channels_last)
        return run_lockstep(vae.decoder, latent, cut(tiles, 7, 6, (14, 12)))

    return run


@torch.no_grad()
@pytest.mark.parametrize("tiles", [1, 2])
@pytest.mark.parametrize("fused", [False, True])
def test_a_vae_in_integers_is_the_simulated_one(fused: bool, tiles: int) -> None:
    vae = Vae(VAE, Fusion(norm=fused, pointwise=fused))
    channels_last(vae)
    run = vae_run(vae, tiles)
    exact = run()
    layers = quantized(vae, "vae", run, split=False)
    simulated = run()
    make_integer(vae, layers)
    with Operators() as operators:
        integer = run()
    assert relative(integer, simulated) < 0.2 * relative(simulated, exact)
    norms = operators.seen["group_norm_quantize"] + operators.seen["group_normalize_quantize"]
    resnets = sum(path.endswith("conv2") for path in layers)
    assert norms == 2 * tiles * resnets
    assert operators.seen["group_normalize_quantize"] == (norms if tiles > 1 else 0)
    own = [p for p in layers if p.endswith(("shortcut", "samplers.0.conv")) or ".attentions." in p]
    assert operators.seen["quantize_channels"] == tiles * len(own)
    assert "add_residual" not in operators.seen


def by_kind(counts: WorkCounts) -> Counter[str]:
    """Operations of convolutions, linear layers and attention, whatever their arithmetic."""
    found: Counter[str] = Counter()
    for operator in counts.operators:
        found[operator.kind.removeprefix("int8_")] += operator.flops * operator.count
    return +found


@torch.no_grad()
def test_work_in_integers_is_counted_on_the_meta_device() -> None:
    """As many operations as in floating point, in the same kinds; codes move a quarter."""
    with torch.device("meta"):
        unet = UNet(UNET, 999, Fusion(norm=True, pointwise=True))
        channels_last(unet)
        unet.fold_time()
        text = unet.text_keys_values(torch.randn(2, 5, 16))
        latent = torch.empty(1, 4, 16, 16).contiguous(memory_format=torch.channels_last)

        def counted() -> WorkCounter:
            with WorkCounter() as counter:
                unet(latent, text, share_prefix=True)
            return counter

        before = counted().counts()
        layers = quantize_network(unet, NetworkSettings(layer=LayerSettings(), kind="unet"))
        make_integer(unet, layers)
        after = counted().counts()
    assert after.flops == before.flops
    assert by_kind(after) == by_kind(before)
    moved = [sum(o.eager_bytes * o.count for o in c.operators) for c in (before, after)]
    assert moved[1] < moved[0]
    assert after.launches < before.launches


@torch.no_grad()
def test_fp8_layers_stay_apart_from_the_producers_of_codes() -> None:
    unet = UNet(UNET, 999, Fusion(norm=True, pointwise=True))
    unet.fold_time()
    run = unet_run(unet)
    exact = run()
    layers = quantized(unet, "unet", run, split=False)
    became = make_integer(unet, layers, arithmetic="fp8")
    linear = {path for path, layer in layers.items() if layer.weight.dim() == 2}
    assert {path for path, kind in became.items() if kind == "fp8"} == linear
    for path in linear:
        assert isinstance(unet.get_submodule(path), Fp8Linear)
    assert sum(isinstance(m, CodeReader) for m in unet.modules()) == len(layers) - len(linear)
    with Operators() as operators:
        assert relative(run(), exact) < 0.2
    assert operators.seen["quantize_fp8"] == operators.seen["fp8_linear"] == len(linear)
    assert operators.seen["layer_norm_quantize"] == 0


@torch.no_grad()
def test_attention_with_quantized_operands_is_refused() -> None:
    unet = UNet(UNET, 999)
    settings = NetworkSettings(layer=LayerSettings(), kind="unet", quantize_attention=True)
    layers = quantize_network(unet, settings)
    with pytest.raises(PipelineError, match="quantize_attention=False"):
        make_integer(unet, layers)
