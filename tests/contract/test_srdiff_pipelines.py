"""SRDiff's pipelines keep `pipelines.contract.Pipeline`, on small random networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipelines.contract import STAGES, PipelineError, Precision, Tier, WeightsSource, listening
from pipelines.srdiff.checkpoint import write_checkpoint
from pipelines.srdiff.config import Config
from pipelines.srdiff.options import OptimizedOptions
from pipelines.work import WorkCounter
from srbench.errors import UsageError
from srbench.registry import load_pipeline, parse_options
from tests.golden.srdiff_recipe import golden_tensors

NAMES = ("srdiff-baseline", "srdiff-optimized", "srdiff-ddim")
FEW = {"srdiff-ddim": {"steps": 2}}
"""The small network has three timesteps."""
IMAGE = np.random.RandomState(5).randint(0, 256, (17, 22, 3), dtype=np.uint8)
SMALL = Config(hidden_size=8, dim_mults=(1, 2, 2, 4), rrdb_features=8, rrdb_blocks=2, timesteps=3)
Loaded = Callable[..., Any]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    folder = tmp_path_factory.mktemp("weights")

    def loaded(
        name: str, scale: int = 4, precision: Precision = Precision.FP32, **options: Any
    ) -> Any:
        path = folder / f"x{scale}.ckpt"
        if not path.exists():
            write_checkpoint(path, golden_tensors(replace(SMALL, scale=scale)), step=0)
        kind = load_pipeline(name)
        pipeline = kind(kind.Options(**{**FEW.get(name, {}), **options}))
        source = WeightsSource(path, "folder", "random", synthetic=True)
        pipeline.load(source, torch.device("cpu"), precision)
        return pipeline

    return loaded


@pytest.fixture(scope="module")
def everything_on(load: Loaded) -> NDArray[np.float32]:
    """The picture of `srdiff-optimized` as it comes."""
    picture: NDArray[np.float32] = load("srdiff-optimized").upscale_float(IMAGE, 4, seed=0)
    return picture


@pytest.mark.parametrize("name", NAMES)
def test_declared_facts(name: str) -> None:
    kind = load_pipeline(name)
    assert kind.name == name
    assert kind.version
    assert set(kind.tiers) == set(kind.precisions) == {Precision.FP32, Precision.FP16}
    exact = Tier.APPROX if name == "srdiff-ddim" else Tier.EXACT
    assert kind.tiers[Precision.FP32] is exact
    assert is_dataclass(kind.Options)
    with pytest.raises(FrozenInstanceError):
        setattr(kind.Options(), fields(kind.Options)[0].name, None)


@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_odd_sizes(name: str, load: Loaded) -> None:
    pipeline = load(name)
    before = IMAGE.copy()
    seen: dict[str, tuple[int, ...]] = {}
    exact = pipeline.upscale_float(
        IMAGE, 4, seed=1, observe=lambda n, x: seen.setdefault(n, tuple(x.shape))
    )
    picture = pipeline.upscale(IMAGE, 4, seed=1)
    assert np.array_equal(IMAGE, before)
    assert exact.shape == picture.shape == (68, 88, 3)
    assert (exact.dtype, picture.dtype) == (np.float32, np.uint8)
    assert exact.min() >= 0
    assert exact.max() <= 1
    assert np.abs(exact * 255 - picture).max() <= 0.501
    assert np.array_equal(pipeline.upscale(IMAGE, 4, seed=1), picture)
    assert not np.array_equal(pipeline.upscale(IMAGE, 4, seed=2), picture)
    assert seen == {"eps": (1, 3, 72, 88)}


@pytest.mark.parametrize(("scale", "image"), [(2, IMAGE[:, :21]), (8, IMAGE[:16, :19])])
@pytest.mark.parametrize("name", NAMES[:2])
def test_other_factors(name: str, scale: int, image: NDArray[np.uint8], load: Loaded) -> None:
    """For x2 the LR sides are padded to multiples of four, for x8 not at all; views will do."""
    picture = load(name, scale=scale).upscale(image, scale, seed=0)
    assert picture.shape == (image.shape[0] * scale, image.shape[1] * scale, 3)


def test_what_is_padded_does_not_show(load: Loaded) -> None:
    """A picture of even sides is not touched; one row more only adds to its end."""
    pipeline = load("srdiff-optimized")
    padded = np.concatenate([IMAGE, IMAGE[-1:]])
    odd, even = (pipeline.upscale(image, 4, seed=0) for image in (IMAGE, padded))
    assert np.array_equal(odd, even[: odd.shape[0]])


@pytest.mark.parametrize("name", NAMES)
def test_stages_are_those_of_the_contract(name: str, load: Loaded) -> None:
    pipeline = load(name)
    order: list[str] = []
    inside: list[str] = []

    class Listener:
        def enter(self, name: str) -> None:
            assert not inside, "stages must not nest"
            inside.append(name)
            order.append(name)

        def exit(self, name: str) -> None:
            assert inside.pop() == name

    with listening(Listener()):
        pipeline.upscale(IMAGE, 4, seed=0)
    assert not inside
    assert list(dict.fromkeys(order)) == ["preprocess", "encode", "unet", "postprocess"]
    assert set(order) < set(STAGES)


@pytest.mark.parametrize("name", NAMES)
def test_bad_input_is_refused_in_one_line(name: str, load: Loaded, tmp_path: Path) -> None:
    kind = load_pipeline(name)
    with pytest.raises(PipelineError, match="load weights before"):
        kind(kind.Options()).upscale(IMAGE, 4, seed=0)
    with pytest.raises(PipelineError, match="image of 22x15 px: sides must be at least 16 px"):
        load(name).upscale(IMAGE[:15], 4, seed=0)
    with pytest.raises(PipelineError, match="these weights upscale by 4, not by 2"):
        load(name).upscale(IMAGE, 2, seed=0)
    with pytest.raises(PipelineError, match="these weights upscale by 4, not by 3"):
        load(name).work(20, 20, 3)
    gone = WeightsSource(tmp_path / "gone.ckpt", "folder", "", synthetic=False)
    with pytest.raises(PipelineError, match=r"gone\.ckpt: no such checkpoint file"):
        kind(kind.Options()).load(gone, torch.device("cpu"), Precision.FP32)


def test_more_steps_than_the_network_has(load: Loaded) -> None:
    with pytest.raises(PipelineError, match="option steps=4: this network has 3"):
        load("srdiff-ddim", steps=4)


@pytest.mark.parametrize("name", NAMES[1:])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tile": 100}, "option tile=100: must be a multiple of 8 from 0"),
        ({"tile": 64, "tile_overlap": 48}, "option tile=64: must be at least twice"),
        ({"tile_overlap": 0}, "option tile_overlap=0: must be a multiple of 8 from 8"),
    ],
)
def test_tiles_that_cannot_be(name: str, options: dict[str, int], message: str) -> None:
    with pytest.raises(PipelineError, match=message):
        load_pipeline(name).Options(**options)


def test_options_as_the_harness_takes_them() -> None:
    kind = load_pipeline("srdiff-ddim")
    assert parse_options(kind.Options, {"steps": "7", "eta": "0.5", "divisor": "255"}) == (
        kind.Options(steps=7, eta=0.5, divisor=255)
    )
    with pytest.raises(UsageError, match="divisor"):
        parse_options(kind.Options, {"divisor": "254"})
    for wrong in ({"steps": 0}, {"eta": 1.5}):
        with pytest.raises(PipelineError, match=r"option (steps|eta)="):
            kind.Options(**wrong)


@pytest.mark.parametrize("name", NAMES)
def test_samples_of_one_picture_are_single_pictures(name: str, load: Loaded) -> None:
    pipeline = load(name)
    several = list(pipeline.upscale_samples(IMAGE, 4, seeds=[3, 4]))
    for seed, picture in zip((3, 4), several, strict=True):
        single = pipeline.upscale(IMAGE, 4, seed=seed).astype(int)
        assert np.abs(picture - single).max() <= 1


@pytest.mark.parametrize("name", NAMES)
def test_work_is_counted_alike_on_the_meta_device_and_in_a_real_run(
    name: str, load: Loaded
) -> None:
    pipeline = load(name)
    predicted = pipeline.work(17, 22, 4)
    with WorkCounter() as counter:
        pipeline.upscale(IMAGE, 4, seed=0)
    real = counter.counts()
    assert real.total_flops == predicted.total_flops
    assert real.calls == predicted.calls == {"unet": 2 if name == "srdiff-ddim" else 3}
    assert real.host_device_bytes == predicted.host_device_bytes == 0
    assert pipeline.work(17, 22, 4) == predicted


def test_the_divisor_brightens_the_picture(load: Loaded) -> None:
    honest, published = (
        load("srdiff-baseline", divisor=divisor).upscale_float(IMAGE, 4, seed=0).mean()
        for divisor in (255, 256)
    )
    assert honest > published


@pytest.mark.parametrize(
    "switched_off",
    [field.name for field in fields(OptimizedOptions) if field.type in ("bool", bool)],
)
def test_every_optimization_can_be_switched_off(
    switched_off: str, load: Loaded, everything_on: NDArray[np.float32]
) -> None:
    """What acts on a card alone is switched in tests/gpu."""
    without = load("srdiff-optimized", **{switched_off: False})
    picture = without.upscale_float(IMAGE, 4, seed=0)
    assert np.abs(everything_on - picture).max() <= 1e-3


def test_everything_off_and_the_baseline_paint_the_same_picture(
    load: Loaded, everything_on: NDArray[np.float32]
) -> None:
    options = parse_options(OptimizedOptions, OptimizedOptions.RUNGS[0].options)
    off = {name: getattr(options, name) for name in OptimizedOptions.RUNGS[0].options}
    for pipeline in (load("srdiff-optimized", **off), load("srdiff-baseline")):
        picture = pipeline.upscale_float(IMAGE, 4, seed=0)
        assert np.abs(everything_on - picture).max() <= 1e-3


def test_the_first_rung_switches_everything_off_and_the_ladder_ends_at_the_defaults() -> None:
    rungs = OptimizedOptions.RUNGS
    steps = [rung.options for rung in rungs if not rung.on_top]
    reached = parse_options(OptimizedOptions, {k: v for step in steps for k, v in step.items()})
    assert reached == OptimizedOptions()
    assert set(rungs[0].options) == {name for rung in rungs[1:] for name in rung.options}
    assert set(rungs[0].options.values()) == {"false"}
    assert all(len(rung.options) == 1 for rung in rungs[1:])
    switches = {field.name for field in fields(OptimizedOptions) if field.type in ("bool", bool)}
    assert set(rungs[0].options) == switches


@pytest.mark.parametrize("name", NAMES)
def test_fp16_on_a_cpu_keeps_the_picture_and_counting_its_arithmetic(
    name: str, load: Loaded
) -> None:
    """Taking operators apart must not lose autocast; the sample itself is never half."""
    image = IMAGE[:16, :16]
    half, full = (load(name, precision=p) for p in (Precision.FP16, Precision.FP32))
    picture, wanted = (p.upscale_float(image, 4, seed=0) for p in (half, full))
    assert not np.array_equal(picture, wanted)
    assert np.mean((picture - wanted) ** 2, dtype=np.float64) <= 1e-5
    with WorkCounter() as counter:
        counted = half.upscale_float(image, 4, seed=0)
    assert np.mean((picture - counted) ** 2, dtype=np.float64) <= 1e-6
    assert counter.counts().calls["unet"] == (2 if name == "srdiff-ddim" else 3)


def test_tiles_are_told_and_need_less_memory(load: Loaded) -> None:
    whole = load("srdiff-optimized")
    tiled = load("srdiff-optimized", tile=48, tile_overlap=16)
    assert whole.decisions(17, 22, 4)["tiles"] == "none"
    assert tiled.decisions(17, 22, 4)["tiles"] == "6 of 48x48"
    assert tiled.work(17, 22, 4).calls == {"unet": 6 * 3}
    assert 0 < tiled.memory_estimate(170, 220, 4) < whole.memory_estimate(170, 220, 4)
