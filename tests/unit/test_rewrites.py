"""Every exact rewrite of `s3diff-optimized`, alone, in float64, against the published form."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from pipelines.diffusion import color_fix
from pipelines.diffusion.one_step import alpha_bar, predict_x0
from pipelines.diffusion.tiling import gaussian_weights, vae_tiles
from pipelines.s3diff.lora import LoraMerger, ModulatedLora
from pipelines.s3diff.optimized import S3DiffOptimized
from pipelines.s3diff.options import LORA_ALPHA, OptimizedOptions
from pipelines.s3diff.recipe import mini_architecture
from pipelines.s3diff.tiled_vae import decoder_steps, encoder_steps, run_tiled
from pipelines.s3diff.unet import UNet
from pipelines.s3diff.vae import Vae, run_lockstep
from pipelines.s3diff.weights import LoraPair

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


@pytest.mark.parametrize("kind", LAYERS)
def test_merged_weights_equal_the_low_rank_path(kind: str) -> None:
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
    merger = LoraMerger(network, state, {"layer": pair}, rank, lambda _: 2)
    merger.merge(torch.randn_like(matrices))
    merger.merge(matrices)
    assert_same(layer(x), wanted)


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


def _networks() -> tuple[Any, UNet]:
    config = mini_architecture().unet
    published = UNet2DConditionModel.from_config(config).eval()
    ours = UNet(config, timestep=999).eval()
    ours.load_state_dict(published.state_dict())
    return published, ours


@pytest.mark.parametrize("size", [(16, 16), (13, 19)])
@pytest.mark.parametrize("share_prefix", [False, True])
@pytest.mark.parametrize("fold_time", [False, True])
def test_unet_of_two_prompts_equals_two_published_calls(
    size: tuple[int, int], *, share_prefix: bool, fold_time: bool
) -> None:
    published, ours = _networks()
    width = mini_architecture().unet["cross_attention_dim"]
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


@pytest.mark.parametrize("tile", [5, 100])
def test_lockstep_decoder_equals_the_published_tiled_vae(tile: int) -> None:
    config = mini_architecture().vae
    published = AutoencoderKL.from_config(config).eval()
    ours = Vae(config).eval()
    ours.load_state_dict(published.state_dict())
    z = torch.randn(1, 4, 30, 25)
    tiles = vae_tiles(30, 25, tile, 11, numerator=8, denominator=1)
    wanted = (
        published.decoder(z)
        if len(tiles) == 1
        else run_tiled(decoder_steps(published.decoder), z, tiles, 3)
    )
    assert_same(run_lockstep(ours.decoder, z, tiles), wanted.double())


@pytest.mark.parametrize("tile", [48, 1024])
def test_lockstep_encoder_equals_the_published_tiled_vae(tile: int) -> None:
    config = mini_architecture().vae
    published = AutoencoderKL.from_config(config).eval()
    ours = Vae(config).eval()
    ours.load_state_dict(published.state_dict())
    x = torch.rand(1, 3, 128, 160) * 2 - 1
    tiles = vae_tiles(128, 160, tile, 32, numerator=1, denominator=8)
    wanted = (
        published.encoder(x)
        if len(tiles) == 1
        else run_tiled(encoder_steps(published.encoder), x, tiles, 8)
    )
    assert_same(run_lockstep(ours.encoder, x, tiles), wanted.double())


def test_normalised_blend_equals_weighted_sums_over_norms() -> None:
    pipeline = S3DiffOptimized(
        OptimizedOptions(latent_tile=16, latent_overlap=6, tile_batch=3, cache_text_kv=False)
    )
    latent = torch.randn(1, 4, 40, 24)
    seen: list[Tensor] = []

    def fake_network(tiles: Tensor, prompts: Any, text: Any) -> Tensor:
        seen.extend(tiles)
        return torch.sin(tiles * 3)

    pipeline._guided = fake_network  # type: ignore[method-assign]
    found = pipeline._predict_noise(latent, latent)
    weights = gaussian_weights(16)
    total, norm = torch.zeros_like(latent), torch.zeros_like(latent)
    tiles = iter(seen)
    for left in (0, 8):
        for top in (0, 10, 20, 24):
            window = (..., slice(top, top + 16), slice(left, left + 16))
            assert torch.equal(next(tiles), latent[window][0])
            total[window] += torch.sin(latent[window] * 3) * weights
            norm[window] += weights
    assert_same(found, total / norm)


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
