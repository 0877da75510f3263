"""S3Diff's pipelines keep `pipelines.contract.Pipeline`, on the `mini` weights."""

from collections.abc import Iterator
from dataclasses import FrozenInstanceError, asdict, fields, is_dataclass
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.contract import (
    STAGES,
    PipelineError,
    Precision,
    Tier,
    WeightsSource,
    listening,
    posterior_noise,
)
from pipelines.s3diff.options import OptimizedOptions
from pipelines.s3diff.weight_sources import resolve_weights
from srbench.registry import BUILT_IN, load_pipeline, parse_options

S3DIFF = [
    name
    for name, entry in BUILT_IN.items()
    if name.startswith("s3diff-") and "-w" not in name and entry.note is None
]
COMPILED = "s3diff-compiled"
"""Paints on a card, in tests/gpu: compiling for a CPU takes minutes."""
PAINTING = [name for name in S3DIFF if name != COMPILED]
OWN_CODE = ("s3diff-baseline", "s3diff-optimized", "s3diff-int8-negative")
"""The other variants are `s3diff-optimized` with other tiles or statistics."""
TILES = {"latent_tile": 16, "latent_overlap": 4, "vae_encoder_tile": 64, "vae_decoder_tile": 8}
IMAGE = np.random.RandomState(5).randint(0, 256, (24, 33, 3), dtype=np.uint8)


KEPT: dict[tuple[Any, ...], Any] = {}
"""Loaded pipelines: nothing of an image stays in one."""


@pytest.fixture(scope="module")
def weights() -> Iterator[WeightsSource]:
    yield resolve_weights("mini", "cpu")
    KEPT.clear()


def loaded(name: str, weights: WeightsSource, **options: Any) -> Any:
    key = (name, *sorted(options.items()))
    if key not in KEPT:
        kind = load_pipeline(name)
        KEPT[key] = kind(kind.Options(**options))
        KEPT[key].load(weights, torch.device("cpu"), Precision.FP32)
    return KEPT[key]


@pytest.fixture(scope="module")
def everything_on(weights: WeightsSource) -> np.ndarray:
    """The picture of `s3diff-optimized` as it comes."""
    return loaded("s3diff-optimized", weights, **TILES).upscale_float(IMAGE, 3, seed=0)


@pytest.mark.parametrize("name", S3DIFF)
def test_declared_facts(name: str) -> None:
    kind = load_pipeline(name)
    assert kind.name == name
    assert kind.version
    assert set(kind.tiers) == set(kind.precisions)
    assert kind.tiers[Precision.FP32] in (Tier.EXACT, Tier.APPROX)
    assert is_dataclass(kind.Options)
    with pytest.raises(FrozenInstanceError):
        setattr(kind.Options(), fields(kind.Options)[0].name, None)


@pytest.mark.parametrize("options", [{}, TILES], ids=["untiled", "tiled"])
@pytest.mark.parametrize("name", PAINTING)
def test_pictures(name: str, options: dict[str, int], weights: WeightsSource) -> None:
    pipeline = loaded(name, weights, **options)
    before = IMAGE.copy()
    seen: dict[str, tuple[int, ...]] = {}
    exact = pipeline.upscale_float(
        IMAGE, 3, seed=1, observe=lambda n, x: seen.setdefault(n, tuple(x.shape))
    )
    picture = pipeline.upscale(IMAGE, 3, seed=1)
    assert np.array_equal(IMAGE, before)
    assert exact.shape == picture.shape == (72, 99, 3)
    assert (exact.dtype, picture.dtype) == (np.float32, np.uint8)
    assert exact.min() >= 0
    assert exact.max() <= 1
    assert np.array_equal((exact * np.float32(255)).astype(np.uint8), picture)
    assert np.array_equal(pipeline.upscale(IMAGE, 3, seed=1), picture)
    assert not np.array_equal(pipeline.upscale(IMAGE, 3, seed=2), picture)
    assert seen["eps"] == seen["x0"] == seen["latent"] == (1, 4, 16, 16)
    assert seen["deg_score"] == (1, 2)


@pytest.mark.parametrize("name", OWN_CODE)
def test_stages_are_those_of_the_contract(name: str, weights: WeightsSource) -> None:
    pipeline = loaded(name, weights)
    order: list[str] = []

    class Listener:
        def enter(self, name: str) -> None:
            order.append(name)

        def exit(self, name: str) -> None:
            assert order[-1] == name, "stages must not nest"

    with listening(Listener()):
        pipeline.upscale(IMAGE, 2, seed=0)
    assert set(order) == set(STAGES) - {"encode", "network"}


@pytest.mark.parametrize("name", OWN_CODE)
def test_small_sides_and_missing_weights_are_refused(name: str, weights: WeightsSource) -> None:
    kind = load_pipeline(name)
    with pytest.raises(PipelineError, match="load weights"):
        kind(kind.Options()).upscale(IMAGE, 2, seed=0)
    with pytest.raises(PipelineError, match="at least 16"):
        loaded(name, weights).upscale(IMAGE[:15], 2, seed=0)


@pytest.mark.parametrize("name", OWN_CODE)
def test_work_is_counted_alike_on_the_meta_device_and_in_a_real_run(
    name: str, weights: WeightsSource
) -> None:
    from pipelines.work import WorkCounter

    pipeline = loaded(name, weights, **TILES)
    predicted = pipeline.work(24, 33, 3)
    with WorkCounter() as counter:
        pipeline.upscale(IMAGE, 3, seed=0)
    real = counter.counts()
    assert real.total_flops == predicted.total_flops
    assert real.calls == predicted.calls
    assert real.host_device_bytes == predicted.host_device_bytes


@pytest.mark.parametrize(
    "switched_off",
    [
        "batch_prompts",
        "cache_prompts",
        "cache_text_kv",
        "chunked_attention",
        "fold_time",
        "fold_upsample",
        "fused_color_fix",
        "fused_norm",
        "fused_pointwise",
        "fused_qkv",
        "merge_lora",
        "share_prefix",
    ],
)
def test_every_optimization_can_be_switched_off(
    switched_off: str, weights: WeightsSource, everything_on: np.ndarray
) -> None:
    """What acts on a card alone is switched in tests/gpu."""
    without = loaded("s3diff-optimized", weights, **TILES, **{switched_off: False})
    picture = without.upscale_float(IMAGE, 3, seed=0)
    assert np.mean((everything_on - picture) ** 2, dtype=np.float64) <= 1e-6


def test_the_first_rung_switches_everything_off_and_the_ladder_ends_at_the_defaults() -> None:
    rungs = OptimizedOptions.RUNGS
    steps = [rung.options for rung in rungs if not rung.on_top]
    reached = parse_options(OptimizedOptions, {k: v for step in steps for k, v in step.items()})
    assert reached == OptimizedOptions()
    assert set(rungs[0].options) == {name for rung in rungs[1:] for name in rung.options}
    assert all(len(rung.options) == 1 for rung in rungs[1:])


def test_everything_off_paints_the_same_picture(
    weights: WeightsSource, everything_on: np.ndarray
) -> None:
    options = parse_options(OptimizedOptions, OptimizedOptions.RUNGS[0].options)
    off = {name: getattr(options, name) for name in OptimizedOptions.RUNGS[0].options}
    picture = loaded("s3diff-optimized", weights, **TILES, **off).upscale_float(IMAGE, 3, seed=0)
    assert np.mean((everything_on - picture) ** 2, dtype=np.float64) <= 1e-6


def test_tiles_that_wait_on_the_host_change_nothing(
    weights: WeightsSource, everything_on: np.ndarray
) -> None:
    parked = loaded("s3diff-optimized", weights, **TILES, spill="always")
    assert np.array_equal(parked.upscale_float(IMAGE, 3, seed=0), everything_on)
    assert parked.decisions(24, 33, 3)["vae_tiles"] == "in pinned host memory (spill=always)"
    assert parked.work(24, 33, 3).host_device_bytes > 0


def test_as_shipped_changes_time_only(weights: WeightsSource) -> None:
    clean = loaded("s3diff-baseline", weights, **TILES).upscale(IMAGE, 3, seed=0)
    shipped = loaded("s3diff-baseline", weights, **TILES, as_shipped=True)
    assert np.array_equal(shipped.upscale(IMAGE, 3, seed=0), clean)


def test_a_batch_of_tiles_is_worth_its_tiles(weights: WeightsSource) -> None:
    one, many = (
        loaded("s3diff-optimized", weights, **TILES, tile_batch=size).upscale_float(
            IMAGE, 3, seed=0
        )
        for size in (1, 7)
    )
    assert np.mean((one - many) ** 2, dtype=np.float64) <= 1e-6


def test_noise_is_that_of_the_global_generator() -> None:
    torch.manual_seed(1234)
    assert torch.equal(posterior_noise(1234, (1, 4, 9, 7)), torch.randn(1, 4, 9, 7))


@pytest.mark.full
@pytest.mark.parametrize("name", OWN_CODE[1:])
def test_work_is_the_same_on_every_call(name: str) -> None:
    kind = load_pipeline(name)
    options = {"latent_tile": 8, "latent_overlap": 2}
    assert kind(kind.Options(**options)).work(40, 40, 2) == kind(kind.Options(**options)).work(
        40, 40, 2
    )


@pytest.mark.parametrize("name", OWN_CODE)
def test_counting_keeps_the_fp16_arithmetic(name: str, weights: WeightsSource) -> None:
    """Taking operators apart must not lose autocast; fused kernels may round otherwise."""
    from pipelines.work import WorkCounter

    kind = load_pipeline(name)
    pipeline = kind(kind.Options())
    pipeline.load(weights, torch.device("cpu"), Precision.FP16)
    image = IMAGE[:16, :16]
    plain = pipeline.upscale_float(image, 2, seed=0)
    with WorkCounter() as counter:
        counted = pipeline.upscale_float(image, 2, seed=0)
    assert np.mean((plain - counted) ** 2, dtype=np.float64) <= 10**-4.5
    assert counter.counts().calls["unet"] == 2


def test_the_compiled_baseline_is_the_baseline_compiled() -> None:
    """One class, one switch; what compiled networks paint is looked at in tests/gpu."""
    compiled, baseline = (load_pipeline(name) for name in (COMPILED, "s3diff-baseline"))
    assert issubclass(compiled, baseline)
    assert (compiled.version, compiled.tiers) == (baseline.version, baseline.tiers)
    assert asdict(compiled.Options()) == {**asdict(baseline.Options()), "compile": True}
