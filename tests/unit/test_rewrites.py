"""Every exact rewrite of `s3diff-optimized`, alone, in float64, against the published form."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from pipelines.diffusion import color_fix
from pipelines.diffusion.attention import chunked_attention
from pipelines.diffusion.graphs import Replayed
from pipelines.diffusion.lora import LoraPair
from pipelines.diffusion.one_step import alpha_bar, predict_x0
from pipelines.diffusion.tiling import gaussian_weights, latent_tiles, vae_tiles
from pipelines.diffusion.upsample import fold_upsample, upsample_conv
from pipelines.s3diff.lora import LoraMerger, ModulatedLora
from pipelines.s3diff.options import LORA_ALPHA
from pipelines.s3diff.recipe import small_architecture
from pipelines.stable_diffusion.layers import Fusion, Upsample
from pipelines.stable_diffusion.noise_prediction import NoisePredictor, Prompting, batches
from pipelines.stable_diffusion.tiled_vae import decoder_steps, encoder_steps, run_tiled
from pipelines.stable_diffusion.unet import UNet, _per_prompt
from pipelines.stable_diffusion.vae import Vae, run_lockstep

TOLERANCE = 1e-10
Tensor = torch.Tensor


@pytest.fixture(autouse=True)
def _float64() -> Any:
    torch.manual_seed(7)
    torch.set_default_dtype(torch.float64)
    with torch.inference_mode():
        yield
    torch.set_default_dtype(torch.float32)


def assert_same(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert found.dtype == wanted.dtype == torch.float64
    assert float((found - wanted).abs().max() / wanted.abs().max()) <= TOLERANCE


LAYERS: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "conv3x3": lambda: (nn.Conv2d(12, 20, 3, padding=1), torch.randn(2, 12, 9, 7)),
    "conv3x3 stride 2": lambda: (
        nn.Conv2d(12, 20, 3, stride=2, padding=1),
        torch.randn(2, 12, 9, 7),
    ),
    "conv1x1": lambda: (nn.Conv2d(12, 20, 1), torch.randn(1, 12, 5, 5)),
    "linear": lambda: (nn.Linear(12, 20), torch.randn(3, 11, 12)),
}


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", LAYERS)
def test_merged_weights_equal_the_low_rank_path(
    kind: str, memory_format: torch.memory_format
) -> None:
    layer, x = LAYERS[kind]()
    rank, weight = 4, layer.weight
    assert isinstance(weight, Tensor)
    up_shape = (20, rank, 1, 1) if isinstance(layer, nn.Conv2d) else (20, rank)
    pair = LoraPair(torch.randn(rank, *weight.shape[1:]), torch.randn(up_shape))
    matrices = torch.randn(1, 3, rank, rank)
    wrapped = ModulatedLora(layer, pair, LORA_ALPHA / rank)
    wrapped.modulation = matrices[:, 2]
    wanted = wrapped(x)
    network = nn.ModuleDict({"layer": layer})
    state = {"layer.weight": weight.detach().clone()}
    layer.to(memory_format=memory_format)
    merger = LoraMerger(network, state, {"layer": pair}, rank, lambda _: 2)
    merger.merge(torch.randn_like(matrices))
    merger.merge(matrices)
    assert_same(layer(x), wanted)
    merged = layer.weight
    assert isinstance(merged, Tensor)
    if merged.dim() == 4:
        assert merged.is_contiguous(memory_format=memory_format)


def test_the_transpose_matters() -> None:
    """The oracle can tell M from its transpose."""
    layer, x = LAYERS["linear"]()
    pair = LoraPair(torch.randn(4, 12), torch.randn(20, 4))
    wrapped = ModulatedLora(layer, pair, 2.0)
    modulation = torch.randn(1, 4, 4)
    wrapped.modulation = modulation
    one = wrapped(x)
    wrapped.modulation = modulation.transpose(1, 2)
    assert float((one - wrapped(x)).abs().max()) > 0.1


def _networks(fusion: Fusion) -> tuple[Any, UNet]:
    config = small_architecture().unet
    published = UNet2DConditionModel.from_config(config).eval()
    ours = UNet(config, 999, fusion).eval()
    ours.load_state_dict(published.state_dict())
    return published, ours


PLAIN, FUSED = Fusion(), Fusion(norm=True, pointwise=True)


@pytest.mark.parametrize(
    ("size", "share_prefix", "fold_time", "fusion"),
    [
        ((16, 16), False, False, PLAIN),
        ((16, 16), True, True, FUSED),
        ((13, 19), True, False, FUSED),
        ((13, 19), False, True, PLAIN),
    ],
)
def test_unet_of_two_prompts_equals_two_published_calls(
    size: tuple[int, int], share_prefix: bool, fold_time: bool, fusion: Fusion
) -> None:
    published, ours = _networks(fusion)
    for layer in ours.upsamples() if fusion == FUSED else ():
        layer.fold(torch.float64)
    width = small_architecture().unet["cross_attention_dim"]
    latent, prompts = torch.randn(2, 4, *size), torch.randn(2, 77, width)
    wanted = torch.stack(
        [
            published(latent, 999, encoder_hidden_states=text.expand(2, -1, -1)).sample
            for text in prompts
        ]
    )
    if fold_time:
        ours.fold_time()
    text = ours.text_keys_values(prompts)
    assert_same(ours(latent, text, share_prefix=share_prefix), wanted)


@pytest.mark.parametrize("fusion", [PLAIN, FUSED])
@pytest.mark.parametrize("tile", [5, 100])
def test_lockstep_decoder_equals_the_published_tiled_vae(tile: int, fusion: Fusion) -> None:
    config = small_architecture().vae
    published = AutoencoderKL.from_config(config).eval()
    ours = Vae(config, fusion, chunked=fusion == FUSED).eval()
    ours.load_state_dict(published.state_dict())
    for layer in ours.decoder.upsamples() if fusion == FUSED else ():
        layer.fold(torch.float64)
    z = torch.randn(1, 4, 30, 25)
    tiles = vae_tiles(30, 25, tile, 11, numerator=8, denominator=1)
    wanted = (
        published.decoder(z)
        if len(tiles) == 1
        else run_tiled(decoder_steps(published.decoder), z, tiles, 3)
    )
    assert_same(run_lockstep(ours.decoder, z, tiles), wanted.double())


@pytest.mark.parametrize("fusion", [PLAIN, FUSED])
@pytest.mark.parametrize("tile", [48, 1024])
def test_lockstep_encoder_equals_the_published_tiled_vae(tile: int, fusion: Fusion) -> None:
    config = small_architecture().vae
    published = AutoencoderKL.from_config(config).eval()
    ours = Vae(config, fusion).eval()
    ours.load_state_dict(published.state_dict())
    x = torch.rand(1, 3, 128, 160) * 2 - 1
    tiles = vae_tiles(128, 160, tile, 32, numerator=1, denominator=8)
    wanted = (
        published.encoder(x)
        if len(tiles) == 1
        else run_tiled(encoder_steps(published.encoder), x, tiles, 8)
    )
    assert_same(run_lockstep(ours.encoder, x, tiles), wanted.double())


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_normalised_blend_equals_weighted_sums_over_norms(batch: int) -> None:
    latent = torch.randn(1, 4, 40, 24)
    predictor = NoisePredictor(
        UNet(small_architecture().unet, 999), Prompting(guidance=1.07), torch.half
    )
    predictor.replayed = Replayed(lambda tiles: torch.sin(tiles * 3))
    found = predictor.predict(latent, latent_tiles(40, 24, 16, 6), batch)
    weights = gaussian_weights(16)
    total, norm = torch.zeros_like(latent), torch.zeros_like(latent)
    for left in (0, 8):
        for top in (0, 10, 20, 24):
            window = (..., slice(top, top + 16), slice(left, left + 16))
            total[window] += torch.sin(latent[window] * 3) * weights
            norm[window] += weights
    assert_same(found, total / norm)


def test_batches_are_as_equal_as_can_be() -> None:
    assert batches(28, 8) == [(0, 7), (7, 14), (14, 21), (21, 28)]
    assert batches(15, 8) == [(0, 8), (8, 15)]
    assert batches(3, 8) == [(0, 3)]


@pytest.mark.parametrize("size", [(7, 5), (1, 1), (8, 16)])
def test_folded_upsampling_equals_upsampling_and_convolution(size: tuple[int, int]) -> None:
    x, weight, bias = torch.randn(2, 6, *size), torch.randn(9, 6, 3, 3), torch.randn(9)
    wanted = F.conv2d(F.interpolate(x, scale_factor=2.0, mode="nearest"), weight, bias, padding=1)
    assert_same(upsample_conv(x, fold_upsample(weight), bias), wanted)


@pytest.mark.parametrize("size", [(14, 10), (13, 10)])
def test_an_odd_size_falls_back_from_the_folded_weight(size: tuple[int, int]) -> None:
    layer = Upsample(6)
    x = torch.randn(1, 6, 7, 5)
    wanted = layer(x, size)
    layer.fold(torch.float64)
    assert_same(layer(x, size), wanted)
    layer.conv.weight.data.mul_(2)
    layer.fold(torch.float64)
    assert_same(layer(x, size), 2 * wanted - layer.conv.bias[:, None, None])


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_attention_in_chunks_equals_attention(chunk: int) -> None:
    query, key, value = torch.randn(3, 1, 33, 16)
    wanted = F.scaled_dot_product_attention(query[:, None], key[:, None], value[:, None])[:, 0]
    assert_same(chunked_attention(query, key, value, chunk), wanted)


def test_stacked_layers_give_queries_keys_and_values_in_one_product() -> None:
    network = UNet(small_architecture().unet, 999)
    names = [f"{p}.{n}" for p, m in network.named_modules() if p.endswith("attn1")
             for n in ("to_q", "to_k", "to_v")]  # fmt: skip
    pairs = {}
    for name in names:
        width = network.get_submodule(name).in_features
        pairs[name] = LoraPair(torch.randn(4, width), torch.randn(width, 4))
    state = {k: v.clone() for k, v in network.state_dict().items()}
    merger = LoraMerger(network, state, pairs, 4, lambda _: 0)
    matrices = torch.randn(1, 1, 4, 4)
    merger.merge(matrices)
    attention = network.mid_block.attentions[0].block.attn1
    x = torch.randn(2, 9, attention.to_q.in_features)
    wanted = attention(x)
    network.fuse_qkv(merger.stacked)
    attention.to_q, attention.to_k, attention.to_v = None, None, None
    assert_same(attention(x), wanted)
    merger.merge(2 * matrices)
    assert float((attention(x) - wanted).abs().max()) > 1e-3
    with pytest.raises(ValueError, match="not stacked"):
        merger.stacked([names[1], names[0]])


def test_telescoped_wavelet_equals_two_decompositions() -> None:
    output, source = torch.rand(2, 1, 3, 50, 37)
    wanted = color_fix.wavelet(output, source)
    assert_same(color_fix.wavelet_telescoped(output, source), wanted)


def test_closed_form_step() -> None:
    abar = alpha_bar(999)
    assert abar == pytest.approx(0.0046600951, rel=1e-7)
    x0 = predict_x0(torch.ones(1, dtype=torch.float32), torch.zeros(1), abar)
    assert float(x0) == pytest.approx(14.648819, rel=1e-6)
    x0 = predict_x0(torch.zeros(1), torch.ones(1, dtype=torch.float32), abar)
    assert float(x0) == pytest.approx(-14.614647, rel=1e-6)


def test_prompts_are_stacked_in_the_memory_format_of_the_map() -> None:
    """`repeat` gives NCHW: one such skip sends the last resnet past its kernels."""
    x = torch.randn(2, 8, 5, 7).contiguous(memory_format=torch.channels_last)
    stacked = _per_prompt(x, 2)
    assert stacked.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(stacked, x.repeat(2, 1, 1, 1))
