"""Which layers are quantized, and that a network still computes with them in place."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from pipelines.contract import PipelineError
from pipelines.diffusion.lora import AdaptedLayer, LoraPair, wrap_layers
from pipelines.diffusion.tiling import Box, VaeTile, vae_tiles
from pipelines.passionsr.layer import QuantizedLayer
from pipelines.passionsr.network import (
    NetworkSettings,
    planned_layers,
    quantizable_layers,
    quantize_network,
    quantized_attentions,
)
from pipelines.passionsr.settings import LayerSettings
from pipelines.stable_diffusion.architecture import published_json
from pipelines.stable_diffusion.layers import Fusion
from pipelines.stable_diffusion.options import TIMESTEP
from pipelines.stable_diffusion.unet import UNet
from pipelines.stable_diffusion.vae import Vae, run_lockstep
from tests.tiny_s3diff import tiny_architecture

Tensor = torch.Tensor
TINY = tiny_architecture()
FUSED = Fusion(norm=True, pointwise=True)
FIXED_UNET = NetworkSettings(layer=LayerSettings(), kind="unet")
FIXED_VAE = NetworkSettings(layer=LayerSettings(), kind="vae")


def tiny_unet(fusion: Fusion | None = None) -> UNet:
    torch.manual_seed(3)
    return UNet(TINY.unet, TIMESTEP, fusion).requires_grad_(False)


def tiny_vae(fusion: Fusion | None = None) -> Vae:
    torch.manual_seed(4)
    return Vae(TINY.vae, fusion).requires_grad_(False)


def predict(unet: UNet, prompts: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    latent = torch.randn(1, 4, 12, 16, generator=generator)
    text = torch.randn(prompts, 7, TINY.unet["cross_attention_dim"], generator=generator)
    with torch.inference_mode():
        return unet(latent, unet.text_keys_values(text), share_prefix=prompts > 1)


def encode(vae: Vae, tile: int = 64) -> Tensor:
    image = torch.rand(1, 3, 48, 40, generator=torch.Generator().manual_seed(6)) * 2 - 1
    tiles = vae_tiles(48, 40, tile, 8, numerator=1, denominator=8)
    with torch.inference_mode():
        return vae.quant_conv(run_lockstep(vae.encoder, image, tiles))


def decode(vae: Vae) -> Tensor:
    latent = torch.randn(1, 4, 6, 5, generator=torch.Generator().manual_seed(7))
    tiles = [VaeTile(Box(0, 6, 0, 5), Box(0, 48, 0, 40), Box(0, 48, 0, 40))]
    with torch.inference_mode():
        return run_lockstep(vae.decoder, vae.post_quant_conv(latent), tiles)


def transform(layers: Mapping[str, QuantizedLayer], *, shifted: bool = True) -> None:
    """Scales and shifts of every channel, and no rounding."""
    for layer in layers.values():
        layer.set_scale(torch.rand_like(layer.scale_factor) + 0.5)
        if shifted:
            layer.offset.data.normal_()
        layer.quantizing = False


def difference(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("fusion", [None, FUSED])
def test_a_unet_computes_the_same_with_transformed_layers(fusion: Fusion | None) -> None:
    unet = tiny_unet(fusion)
    wanted = predict(unet, prompts=2)
    layers = quantize_network(unet, FIXED_UNET)
    transform(layers)
    assert difference(predict(unet, prompts=2), wanted) < 1e-5
    # The check sees it when a layer is bypassed.
    for layer in layers.values():
        layer.transforming = False
    layers["down_blocks.2.resnets.0.conv1"].weight.zero_()
    assert difference(predict(unet, prompts=2), wanted) > 1e-3


@pytest.mark.parametrize("tile", [64, 24])
@pytest.mark.parametrize("fusion", [None, FUSED])
def test_a_vae_computes_the_same_with_transformed_layers(fusion: Fusion | None, tile: int) -> None:
    vae = tiny_vae(fusion)
    wanted = encode(vae, tile), decode(vae)
    layers = quantize_network(vae, FIXED_VAE)
    assert any(path.startswith("decoder.up_blocks.3.") for path in layers)
    transform(layers)
    assert difference(encode(vae, tile), wanted[0]) < 1e-5
    assert difference(decode(vae), wanted[1]) < 1e-5


@pytest.mark.parametrize("kind", ["unet", "vae"])
def test_mode_paper_computes_the_same_without_shifts(kind: str) -> None:
    """With shifts its linear layers have the wrong sign."""
    network: Any = tiny_unet() if kind == "unet" else tiny_vae()
    run: Callable[[Any], Tensor] = predict if kind == "unet" else decode
    wanted = run(network)
    layers = quantize_network(network, NetworkSettings.published(kind, 8))  # type: ignore[arg-type]
    transform(layers, shifted=False)
    for attention in quantized_attentions(network).values():
        attention.quantizing = False
    assert difference(run(network), wanted) < 1e-5


def test_every_quantized_layer_takes_part_and_rounds() -> None:
    unet = tiny_unet()
    wanted = predict(unet)
    layers = quantize_network(unet, FIXED_UNET)
    eight = difference(predict(unet), wanted)
    assert all(layer.initialized for layer in layers.values())
    coarse = tiny_unet()
    four_bits = LayerSettings(weight_bits=4, activation_bits=4)
    quantize_network(coarse, replace(FIXED_UNET, layer=four_bits))
    assert 0 < eight < 0.1 < difference(predict(coarse), wanted)


def adapted(network: nn.Module) -> dict[str, AdaptedLayer]:
    pairs = {}
    for path, layer in list(quantizable_layers(network)):
        outputs, inputs, *kernel = layer.weight.shape
        down = torch.randn(2, inputs, *kernel) / (inputs * 9)
        up = torch.randn(outputs, 2, *(1 for _ in kernel))
        if "time" not in path:
            pairs[path] = LoraPair(down, up)
    return wrap_layers(network, pairs, 2.0, AdaptedLayer)


def test_adapters_stay_on_their_path_beside_quantized_layers() -> None:
    unet, vae = tiny_unet(), tiny_vae()
    for network in (unet, vae):
        adapted(network)
    plain = [path for path, _ in quantizable_layers(tiny_unet())]
    wanted = predict(unet), encode(vae)
    layers = {
        "unet": quantize_network(unet, FIXED_UNET),
        "vae": quantize_network(vae, FIXED_VAE),
    }
    assert set(layers["unet"]) < set(plain)
    assert isinstance(unet.get_submodule("mid_block.resnets.0.conv1.base"), QuantizedLayer)
    for part in layers.values():
        transform(part)
    assert difference(predict(unet), wanted[0]) < 1e-5
    assert difference(encode(vae), wanted[1]) < 1e-5


def test_the_published_program_quantizes_everything() -> None:
    unet = planned_layers(published_json("unet/config.json"), NetworkSettings.published("unet", 6))
    vae = planned_layers(published_json("vae/config.json"), NetworkSettings.published("vae", 6))
    assert (len(unet), len(vae)) == (282, 72)
    eight = {path for path, own in unet.items() if own.weight_bits == own.activation_bits == 8}
    assert eight == {"time_embedding.linear_1", "conv_out"}
    eight = {path for path, own in vae.items() if own.weight_bits == own.activation_bits == 8}
    assert eight == {"encoder.conv_out", "decoder.conv_out", "quant_conv", "post_quant_conv"}
    assert all(own.split for own in unet.values())
    assert not any(own.split for own in vae.values())
    with torch.device("meta"):
        network = UNet(published_json("unet/config.json"), TIMESTEP)
        layers = quantize_network(network, NetworkSettings.published("unet", 6))
    assert {path: layer.settings for path, layer in layers.items()} == unet
    assert len(quantized_attentions(network)) == 32


def test_mode_fixed_leaves_ends_and_constants_in_floating_point() -> None:
    unet = planned_layers(published_json("unet/config.json"), FIXED_UNET)
    vae = planned_layers(published_json("vae/config.json"), FIXED_VAE)
    with torch.device("meta"):
        networks = (
            UNet(published_json("unet/config.json"), TIMESTEP),
            Vae(published_json("vae/config.json")),
        )
    floating = {path for path, _ in quantizable_layers(networks[0])} - set(unet)
    ends = {"conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2"}
    assert ends <= floating
    inner = floating - ends
    assert sum(path.endswith("time_emb_proj") for path in inner) == 22
    assert sum(path.endswith(("attn2.to_k", "attn2.to_v")) for path in inner) == 32
    assert len(inner) == 22 + 32
    assert {path for path, _ in quantizable_layers(networks[1])} - set(vae) == {
        *("encoder.conv_in", "encoder.conv_out", "decoder.conv_in", "decoder.conv_out"),
        *("quant_conv", "post_quant_conv"),
    }


@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_half_an_autoencoder_is_quantized_like_the_whole(half: str) -> None:
    for settings in (FIXED_VAE, NetworkSettings.published("vae", 6)):
        whole = quantize_network(tiny_vae(), settings)
        part = quantize_network(getattr(tiny_vae(), half), settings)
        inside = {p: x for p, x in whole.items() if p.startswith(f"{half}.")}
        assert {f"{half}.{path}": layer.settings for path, layer in part.items()} == {
            path: layer.settings for path, layer in inside.items()
        }


def test_channels_that_no_kernel_takes_stay_in_floating_point() -> None:
    config = TINY.vae | {"block_out_channels": [8, 8, 12, 8], "norm_num_groups": 4}
    layers = planned_layers(config, FIXED_VAE)
    assert "decoder.up_blocks.3.resnets.0.conv1" in layers
    assert not [path for path in layers if path.startswith("encoder.down_blocks.2.")]


def folded() -> UNet:
    unet = tiny_unet()
    for layer in unet.upsamples():
        layer.fold(torch.float32)
    return unet


def fused() -> UNet:
    unet = tiny_unet()
    unet.fuse_qkv(lambda paths: torch.cat([unet.get_parameter(f"{p}.weight") for p in paths]))
    return unet


def twice() -> UNet:
    unet = tiny_unet()
    quantize_network(unet, FIXED_UNET)
    return unet


def narrow() -> Vae:
    sizes = {"block_out_channels": [4] * 4, "norm_num_groups": 4}
    return Vae(TINY.vae | sizes)


@pytest.mark.parametrize(
    ("network", "settings", "message"),
    [
        (folded, FIXED_UNET, "fold_upsample=false"),
        (fused, FIXED_UNET, "fused_qkv=false"),
        (twice, FIXED_UNET, "quantized already"),
        (tiny_vae, FIXED_UNET, "a unet given for a Vae"),
        (tiny_unet, FIXED_VAE, "a vae given for a UNet"),
        (narrow, FIXED_VAE, "multiples of 8"),
    ],
)
def test_networks_that_would_bypass_their_quantized_layers_are_refused(
    network: Callable[[], nn.Module], settings: NetworkSettings, message: str
) -> None:
    with pytest.raises(PipelineError, match=message):
        quantize_network(network(), settings)


def test_the_attention_of_a_vae_is_not_quantized() -> None:
    with pytest.raises(PipelineError, match="the VAE's attention stay in floating point"):
        NetworkSettings(layer=LayerSettings(), kind="vae", quantize_attention=True)
