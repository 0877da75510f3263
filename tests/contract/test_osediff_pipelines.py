"""OSEDiff's pipelines keep `pipelines.contract.Pipeline`, on tiny weights derived as `mini` is."""

from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.contract import STAGES, PipelineError, Precision, Tier, WeightsSource, listening
from pipelines.osediff.baseline import OSEDiffBaseline
from pipelines.osediff.mini import derive
from pipelines.osediff.optimized import OSEDiffOptimized
from pipelines.osediff.options import BaselineOptions, OptimizedOptions
from pipelines.osediff.weights import read_checkpoint
from pipelines.work import WorkCounter
from srbench.registry import parse_options
from tests.tiny_s3diff import tiny_architecture, write_sane_weights

PIPELINES = [OSEDiffBaseline, OSEDiffOptimized]
TILES = {"latent_tile": 8, "latent_overlap": 2, "vae_encoder_tile": 8, "vae_decoder_tile": 3}
SMALL = {"process_size": 1}
"""Nothing is enlarged."""
IMAGE = np.random.RandomState(5).randint(0, 256, (18, 27, 3), dtype=np.uint8)
SCALE = 4
SIZE = (72, 104)
"""Of its picture: 72x108 in multiples of 8."""


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> WeightsSource:
    root = tmp_path_factory.mktemp("weights")
    derive(write_sane_weights(root / "s3diff", tiny_architecture()), root / "osediff", (0.5, 0.5))
    return WeightsSource(root / "osediff", "folder", "tiny", synthetic=True)


KEPT: dict[tuple[Any, ...], Any] = {}
"""Loaded pipelines: nothing of an image stays in one."""


def loaded(kind: Any, weights: WeightsSource, **options: Any) -> Any:
    options = SMALL | options
    key = (kind, weights, *sorted(options.items()))
    if key not in KEPT:
        pipeline = kind(kind.Options(**options))
        pipeline.load(weights, torch.device("cpu"), Precision.FP32)
        KEPT[key] = pipeline
    return KEPT[key]


@pytest.fixture(scope="module")
def everything_on(weights: WeightsSource) -> np.ndarray:
    """The picture of `osediff-optimized` as it comes."""
    return loaded(OSEDiffOptimized, weights, **TILES).upscale_float(IMAGE, SCALE, seed=0)


@pytest.mark.parametrize("kind", PIPELINES)
def test_declared_facts(kind: Any) -> None:
    assert kind.name in ("osediff-baseline", "osediff-optimized")
    assert set(kind.tiers) == set(kind.precisions)
    assert kind.tiers[Precision.FP32] == Tier.EXACT
    assert is_dataclass(kind.Options)
    with pytest.raises(FrozenInstanceError):
        setattr(kind.Options(), fields(kind.Options)[0].name, None)
    assert kind.Options().color_fix == "adain"


@pytest.mark.parametrize("options", [{}, TILES], ids=["untiled", "tiled"])
@pytest.mark.parametrize("kind", PIPELINES)
def test_pictures(kind: Any, options: dict[str, int], weights: WeightsSource) -> None:
    pipeline = loaded(kind, weights, **options)
    before = IMAGE.copy()
    seen: dict[str, tuple[int, ...]] = {}
    exact = pipeline.upscale_float(
        IMAGE, SCALE, seed=1, observe=lambda n, x: seen.setdefault(n, tuple(x.shape))
    )
    picture = pipeline.upscale(IMAGE, SCALE, seed=1)
    assert np.array_equal(IMAGE, before)
    assert exact.shape == picture.shape == (*SIZE, 3)
    assert pipeline.output_size(*IMAGE.shape[:2], SCALE) == SIZE
    assert (exact.dtype, picture.dtype) == (np.float32, np.uint8)
    assert exact.min() >= 0
    assert exact.max() <= 1
    assert np.array_equal((exact * np.float32(255)).astype(np.uint8), picture)
    assert np.array_equal(pipeline.upscale(IMAGE, SCALE, seed=1), picture)
    assert not np.array_equal(pipeline.upscale(IMAGE, SCALE, seed=2), picture)
    assert seen["eps"] == seen["x0"] == seen["latent"] == seen["latent_mean"] == (1, 4, 9, 13)


@pytest.mark.parametrize("fix", ["none", "wavelet", "adain"])
def test_both_paint_the_same(
    fix: str, weights: WeightsSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tiled, with latents of odd sides."""
    painted = []
    for kind in PIPELINES:
        pipeline = loaded(kind, weights, **TILES)
        monkeypatch.setattr(pipeline, "options", replace(pipeline.options, color_fix=fix))
        painted.append(pipeline.upscale_float(IMAGE, SCALE, seed=0))
    one, other = painted
    assert np.mean((one - other) ** 2, dtype=np.float64) <= 10**-6.8


def test_an_input_resized_on_the_device_paints_the_same(
    weights: WeightsSource, everything_on: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a card does, here."""
    pipeline = loaded(OSEDiffOptimized, weights, **TILES)
    monkeypatch.setattr(OSEDiffOptimized, "_resizes", lambda self: True)
    assert np.abs(pipeline.upscale_float(IMAGE, SCALE, seed=0) - everything_on).max() <= 1e-6


def test_small_inputs_are_enlarged_and_stay_so(weights: WeightsSource) -> None:
    pipeline = loaded(OSEDiffOptimized, weights, process_size=96)
    picture = pipeline.upscale(IMAGE, SCALE, seed=0)
    assert picture.shape[:2] == pipeline.output_size(*IMAGE.shape[:2], 4) == (96, 144)


@pytest.mark.parametrize("kind", PIPELINES)
def test_stages_are_those_of_the_contract(kind: Any, weights: WeightsSource) -> None:
    pipeline = loaded(kind, weights)
    order: list[str] = []

    class Listener:
        def enter(self, name: str) -> None:
            order.append(name)

        def exit(self, name: str) -> None:
            assert order[-1] == name, "stages must not nest"

    with listening(Listener()):
        pipeline.upscale(IMAGE, 2, seed=0)
    assert set(order) == set(STAGES) - {"encode", "degradation", "modulate", "network"}


@pytest.mark.parametrize("kind", PIPELINES)
def test_small_sides_and_missing_weights_are_refused(kind: Any, weights: WeightsSource) -> None:
    with pytest.raises(PipelineError, match="load weights"):
        kind(kind.Options()).upscale(IMAGE, 2, seed=0)
    with pytest.raises(PipelineError, match="at least 16"):
        loaded(kind, weights).upscale(IMAGE[:15], 2, seed=0)


@pytest.mark.parametrize("kind", PIPELINES)
def test_work_is_counted_alike_on_the_meta_device_and_in_a_real_run(
    kind: Any, weights: WeightsSource
) -> None:
    pipeline = loaded(kind, weights, **TILES)
    predicted = pipeline.work(18, 27, SCALE)
    with WorkCounter() as counter:
        pipeline.upscale(IMAGE, SCALE, seed=0)
    real = counter.counts()
    assert real.total_flops == predicted.total_flops
    assert real.calls == predicted.calls
    assert real.host_device_bytes == predicted.host_device_bytes
    assert predicted.calls["unet"] == 4, "2 x 2 tiles, one prompt"
    assert predicted.calls.get("text_encoder", 0) == (kind is OSEDiffBaseline)


MORE = (
    *("cache_text_kv", "chunked_attention", "fold_time", "fold_upsample", "fused_norm"),
    *("fused_pointwise", "fused_qkv"),
)


@pytest.mark.parametrize(
    "switched_off",
    [
        *("cache_prompts", "merge_lora"),
        *(pytest.param(name, marks=pytest.mark.full) for name in MORE),
    ],
)
def test_every_optimization_can_be_switched_off(
    switched_off: str, weights: WeightsSource, everything_on: np.ndarray
) -> None:
    """What acts on a card alone is switched in tests/gpu."""
    without = loaded(OSEDiffOptimized, weights, **TILES, **{switched_off: False})
    picture = without.upscale_float(IMAGE, SCALE, seed=0)
    assert np.mean((everything_on - picture) ** 2, dtype=np.float64) <= 1e-6


def test_the_ladder_begins_with_everything_off_and_ends_at_the_defaults(
    weights: WeightsSource, everything_on: np.ndarray
) -> None:
    rungs = OptimizedOptions.RUNGS
    steps = [rung.options for rung in rungs if not rung.on_top]
    reached = parse_options(OptimizedOptions, {k: v for step in steps for k, v in step.items()})
    assert reached == OptimizedOptions()
    assert set(rungs[0].options) == {name for rung in rungs[1:] for name in rung.options}
    options = parse_options(OptimizedOptions, rungs[0].options)
    off = {name: getattr(options, name) for name in rungs[0].options}
    picture = loaded(OSEDiffOptimized, weights, **TILES, **off).upscale_float(IMAGE, SCALE, seed=0)
    assert np.mean((everything_on - picture) ** 2, dtype=np.float64) <= 1e-6


def test_tiles_that_wait_on_the_host_change_nothing(
    weights: WeightsSource, everything_on: np.ndarray
) -> None:
    parked = loaded(OSEDiffOptimized, weights, **TILES, spill="always")
    assert np.array_equal(parked.upscale_float(IMAGE, SCALE, seed=0), everything_on)
    assert parked.decisions(18, 27, SCALE)["vae_tiles"] == "in pinned host memory (spill=always)"


@pytest.mark.parametrize(
    "kind", [OSEDiffOptimized, pytest.param(OSEDiffBaseline, marks=pytest.mark.full)]
)
def test_an_embedding_takes_the_place_of_the_prompt(
    kind: Any, weights: WeightsSource, tmp_path: Path
) -> None:
    with torch.inference_mode():
        embedding = read_checkpoint(weights).prompt_encoder(torch.device("cpu"))("a photo, ,")
    torch.save(embedding.clone(), tmp_path / "prompt.pt")
    given = loaded(kind, weights, prompt_embedding=str(tmp_path / "prompt.pt"))
    told, other = (loaded(kind, weights, prompt=text) for text in ("a photo, ,", ""))
    picture = given.upscale(IMAGE, SCALE, seed=0)
    assert np.array_equal(picture, told.upscale(IMAGE, SCALE, seed=0))
    assert not np.array_equal(picture, other.upscale(IMAGE, SCALE, seed=0))
    assert given.work(18, 27, SCALE).calls.get("text_encoder", 0) == 0
    with pytest.raises(PipelineError, match="no such file"):
        loaded(kind, weights, prompt_embedding=str(tmp_path / "no.pt"))


def test_picture_options_need_no_other_networks(weights: WeightsSource) -> None:
    pipeline = OSEDiffOptimized(OptimizedOptions(**SMALL))
    pipeline.load(weights, torch.device("cpu"), Precision.FP32)
    tiled = {"latent_tile": 8, "latent_overlap": 2}
    assert pipeline.retune(OptimizedOptions(**SMALL, **tiled))
    wanted = loaded(OSEDiffOptimized, weights, **tiled).upscale(IMAGE, SCALE, seed=0)
    assert np.array_equal(pipeline.upscale(IMAGE, SCALE, seed=0), wanted)
    assert not pipeline.retune(OptimizedOptions(**SMALL, prompt="a photo"))


@pytest.mark.parametrize("kind", PIPELINES)
def test_counting_keeps_the_fp16_arithmetic(kind: Any, weights: WeightsSource) -> None:
    """Taking operators apart must not lose autocast; fused kernels may round otherwise."""
    pipeline = kind(kind.Options(**SMALL, color_fix="none"))
    pipeline.load(weights, torch.device("cpu"), Precision.FP16)
    image = IMAGE[:16, :16]
    plain = pipeline.upscale_float(image, 2, seed=0)
    with WorkCounter() as counter:
        counted = pipeline.upscale_float(image, 2, seed=0)
    assert np.mean((plain - counted) ** 2, dtype=np.float64) <= 10**-4.5
    assert counter.counts().calls["unet"] == 1
    exact = loaded(kind, weights, color_fix="none").upscale_float(image, 2, seed=0)
    assert np.mean((plain - exact) ** 2, dtype=np.float64) <= 10**-3


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"process_size": 0}, "process_size=0: must be at least 1"),
        ({"latent_overlap": 96}, "latent_overlap=96: must be smaller"),
        ({"tile_batch": -1}, "tile_batch=-1"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, int], said: str) -> None:
    kind = OptimizedOptions if "tile_batch" in options else BaselineOptions
    with pytest.raises(PipelineError, match=said):
        kind(**options)


@pytest.mark.full
def test_the_published_size_has_the_published_work() -> None:
    """GMACs of a 512x512 picture: UNet 402.1, encoder 558.3, decoder 1257.3, and adapters."""
    baseline, optimized = (kind(kind.Options()).work(128, 128, 4) for kind in PIPELINES)
    macs = {name: flops / 2e9 for name, flops in baseline.flops.items()}
    assert macs["vae_decode"] == pytest.approx(1257.3, abs=0.1)
    assert 402.1 < macs["unet"] < 1.01 * 402.1
    assert 558.3 < macs["vae_encode"] < 1.02 * 558.3
    assert optimized.flops["vae_encode"] / 2e9 == pytest.approx(558.3, abs=0.1)
    assert optimized.total_flops < baseline.total_flops
    assert optimized.launches < baseline.launches / 3
    assert baseline.host_device_bytes == optimized.host_device_bytes == 0
