"""Variants of `s3diff-optimized`: what each changes, and that it changes nothing else."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from pipelines.contract import PipelineError, Precision, Tier, WeightsSource
from pipelines.s3diff.int8 import NegativeInt8Linear, quantize_negative
from pipelines.s3diff.optimized import S3DiffOptimized
from pipelines.s3diff.options import TIMESTEP
from pipelines.s3diff.recipe import Recipe, recipe
from pipelines.s3diff.synthesize import synthesize, tensor
from pipelines.s3diff.variant_options import Int8NegativeOptions
from pipelines.s3diff.variants import (
    S3DiffInt8Negative,
    S3DiffTile128,
    S3DiffTrueGroupNorm,
    S3DiffUntiledVae,
    union_statistics,
)
from pipelines.stable_diffusion.merged_norm import MergedGroupNorm
from pipelines.stable_diffusion.unet import UNet

VARIANTS = (S3DiffTile128, S3DiffUntiledVae, S3DiffTrueGroupNorm, S3DiffInt8Negative)
SMALL_TILES = {"vae_encoder_tile": 64, "vae_decoder_tile": 8}
IMAGE = np.random.RandomState(9).randint(0, 256, (24, 40, 3), dtype=np.uint8)
SCALE = 5
AMPLIFICATION = 14.614647
"""Of an error in eps by the one-step formula at timestep 999."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> WeightsSource:
    """Seeded: every layer matters, where a small trained network may ignore some."""
    folder = tmp_path_factory.mktemp("small") / "weights"
    synthesize(folder, recipe("small"))
    return WeightsSource(folder, "folder", "small", synthetic=True)


def loaded(kind: Any, weights: WeightsSource, **options: Any) -> Any:
    pipeline = kind(kind.Options(**options))
    pipeline.load(weights, torch.device("cpu"), Precision.FP32)
    return pipeline


def upscaled(pipeline: Any) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    seen: dict[str, torch.Tensor] = {}
    picture = pipeline.upscale_float(
        IMAGE, SCALE, seed=3, observe=lambda name, x: seen.setdefault(name, x.clone())
    )
    return picture, seen


@pytest.fixture(scope="module")
def plain(weights: WeightsSource) -> tuple[np.ndarray, dict[str, torch.Tensor]]:
    """Of `s3diff-optimized`, which tiles nothing at this size."""
    return upscaled(loaded(S3DiffOptimized, weights))


@pytest.fixture(scope="module")
def tiled(weights: WeightsSource) -> np.ndarray:
    """Of `s3diff-optimized` with small tiles of the VAE."""
    return upscaled(loaded(S3DiffOptimized, weights, **SMALL_TILES))[0]


def test_every_variant_declares_that_it_is_another_function() -> None:
    for kind in VARIANTS:
        assert set(kind.tiers.values()) == {Tier.APPROX}
        assert kind.name != S3DiffOptimized.name
    assert set(S3DiffOptimized.tiers.values()) == {Tier.EXACT, Tier.REDUCED}


def test_a_latent_of_128_is_one_tile_instead_of_four() -> None:
    counts = S3DiffTile128(S3DiffTile128.Options()).work(512, 512, 2)
    assert counts.calls == {"unet": 2, "vae_encoder": 1, "vae_decoder": 1}
    assert counts.total_flops == pytest.approx(23.12e12, rel=0.01)


def test_the_vae_is_one_tile_whatever_the_size() -> None:
    small = S3DiffUntiledVae(S3DiffUntiledVae.Options())
    small.architecture = recipe("small").architecture
    counts = small.work(1080, 1920, 2)
    assert (counts.calls["vae_encoder"], counts.calls["vae_decoder"]) == (1, 1)
    assert counts.calls["unet"] == 2 * 28


def test_an_untiled_vae_is_the_tiled_one_with_large_tiles(
    weights: WeightsSource, plain: Any, tiled: np.ndarray
) -> None:
    assert np.array_equal(upscaled(loaded(S3DiffUntiledVae, weights))[0], plain[0])
    assert not np.array_equal(tiled, plain[0])


def test_statistics_of_the_union_are_those_of_all_values() -> None:
    torch.manual_seed(5)
    groups = [torch.randn(1, 4, n, dtype=torch.float64) * 3 + n / 10 for n in (12, 35, 77)]
    statistics = [torch.stack([g.mean(-1), g.var(-1, unbiased=False)], dim=-1) for g in groups]
    found = union_statistics(statistics, [12, 35, 77])
    whole = torch.cat(groups, dim=-1)
    wanted = torch.stack([whole.mean(-1), whole.var(-1, unbiased=False)], dim=-1)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    published = MergedGroupNorm.merge(statistics, [12, 35, 77])
    assert bool((published[..., 1] < 0.9 * wanted[..., 1]).all())


def test_true_statistics_reach_every_norm_and_only_tiles_notice(
    weights: WeightsSource, plain: Any, tiled: np.ndarray
) -> None:
    variant = loaded(S3DiffTrueGroupNorm, weights, **SMALL_TILES)
    norms = [m for m in variant.vae.modules() if isinstance(m, MergedGroupNorm)]
    assert norms
    assert all(norm.merge is union_statistics for norm in norms)
    assert MergedGroupNorm.merge is not union_statistics
    found, _ = upscaled(variant)
    assert 10**-4.5 < float(np.mean((found - tiled) ** 2)) ** 0.5 < 0.1
    assert np.array_equal(upscaled(loaded(S3DiffTrueGroupNorm, weights))[0], plain[0])


@pytest.mark.parametrize("fused_qkv", [True, False])
def test_int8_takes_the_layers_below_the_top_and_shares_their_weights(
    weights: WeightsSource, fused_qkv: bool
) -> None:
    pipeline = loaded(S3DiffInt8Negative, weights, fused_qkv=fused_qkv)
    exact = loaded(S3DiffOptimized, weights, fused_qkv=fused_qkv).unet
    swapped = {
        path for path, m in pipeline.unet.named_modules() if isinstance(m, NegativeInt8Linear)
    }
    blocks = {path.split(".attentions.")[0] for path in swapped}
    assert blocks == {"down_blocks.1", "down_blocks.2", "mid_block", "up_blocks.1", "up_blocks.2"}
    transformers = 2 + 2 + 1 + 3 + 3
    assert len(swapped) == transformers * (8 if fused_qkv else 10)
    kept = {p for p, m in exact.named_modules() if isinstance(m, nn.Linear)} - swapped
    assert {path for path in kept if "attn2.to_k" in path or "attn2.to_v" in path}
    for path in swapped:
        layer = pipeline.unet.get_submodule(path)
        assert torch.equal(layer.weight, exact.get_submodule(path).weight)
        error = layer.values.float() * layer.scales[:, None] - layer.weight
        assert bool((error.abs() <= 0.51 * layer.scales[:, None]).all())
    assert sum(p.numel() for p in pipeline.unet.parameters()) == sum(
        p.numel() for p in exact.parameters()
    )


def test_int8_leaves_the_positive_prompt_alone(weights: WeightsSource) -> None:
    pipelines = [loaded(kind, weights) for kind in (S3DiffOptimized, S3DiffInt8Negative)]
    latent = torch.randn(3, 4, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        exact, found = (
            p.unet(latent, p.unet.text_keys_values(p.prompts), share_prefix=True) for p in pipelines
        )
    assert float((found[0] - exact[0]).norm() / exact[0].norm()) <= 1e-5
    negative = float((found[1] - exact[1]).norm() / exact[1].norm())
    assert 1e-4 < negative < 2e-2


def test_int8_costs_the_picture_what_the_weight_of_the_prompt_says(
    weights: WeightsSource, plain: Any
) -> None:
    """0.07 of the negative prompt's error reaches eps, and 14.6 times that the latent."""
    (exact, before), (found, after) = plain, upscaled(loaded(S3DiffInt8Negative, weights))
    error = float((after["eps"] - before["eps"]).norm() / before["eps"].norm())
    assert 1e-6 < error < 0.07 * 2e-2
    assert float(-10 * np.log10(np.mean((found - exact) ** 2, dtype=np.float64))) >= 38


def test_int8_follows_the_weights_of_each_image(weights: WeightsSource) -> None:
    pipeline = loaded(S3DiffInt8Negative, weights)
    layer = pipeline.int8_layers[0]
    address, before = layer.values.data_ptr(), layer.values.clone()
    first, _ = upscaled(pipeline)
    pipeline.upscale(255 - IMAGE, SCALE, seed=0)
    assert layer.values.data_ptr() == address
    assert not torch.equal(layer.values, before)
    assert np.array_equal(upscaled(pipeline)[0], first)


@pytest.mark.parametrize("name", ["merge_lora", "batch_prompts", "half_weights"])
def test_int8_refuses_to_stand_on_nothing(name: str) -> None:
    needs = {"merge_lora": "overlap_merge", "batch_prompts": "share_prefix"}
    also = {needs[name]: False} if name in needs else {}
    with pytest.raises(PipelineError, match=f"option {name}=false: s3diff-int8-negative"):
        Int8NegativeOptions(**{name: False}, **also)


def _published_unet(plan: Recipe) -> UNet:
    with torch.device("meta"):
        unet = UNet(plan.architecture.unet, TIMESTEP)
    unet.to_empty(device="cpu").eval().requires_grad_(False)
    for name, target in unet.state_dict().items():
        target.copy_(torch.from_numpy(tensor(plan, "unet", name, tuple(target.shape))))
    return unet


@pytest.mark.full
@torch.inference_mode()
def test_int8_at_full_size_costs_what_was_predicted() -> None:
    """Seeded weights, 32x32 latent, image PSNR by the one-step formula at a contrast of 0.5."""
    unet = _published_unet(recipe("full"))
    generator = torch.Generator().manual_seed(0)
    latent = torch.randn(1, 4, 32, 32, generator=generator) * 0.07
    text = unet.text_keys_values(torch.randn(2, 77, 1024, generator=generator))
    exact = unet(latent, text, share_prefix=True)
    assert len(quantize_negative(unet)) == 110
    found = unet(latent, text, share_prefix=True)
    assert torch.equal(found[0], exact[0])
    error = float((found[1] - exact[1]).norm() / exact[1].norm())
    decibels = -20 * math.log10(0.07 * error * AMPLIFICATION * 0.25)
    assert decibels >= 43
