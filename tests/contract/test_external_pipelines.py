"""Real-ESRGAN and bicubic keep `pipelines.contract.Pipeline`; Real-ESRGAN on a small network."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields, is_dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pipelines.contract import STAGES, PipelineError, Precision, Tier, WeightsSource, listening
from pipelines.external.bicubic.pipeline import Bicubic
from pipelines.external.realesrgan.network import RRDBNet, Shape, receptive_radius
from pipelines.external.realesrgan.options import RealESRGANOptions
from pipelines.external.realesrgan.pipeline import RealESRGAN
from pipelines.external.realesrgan.tiles import largest_tile, plan_tiles, spans
from pipelines.work import WorkCounter
from srbench.registry import load_pipeline

SMALL = Shape(features=8, growth=4, blocks=1)
IMAGE = np.random.RandomState(5).randint(0, 256, (48, 65, 3), dtype=np.uint8)
NAMES = ("realesrgan-x4plus", "bicubic")
UNUSED = WeightsSource(Path("s3diffs"), "folder", "00", synthetic=False)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A seeded network that looks far, whose pictures stay between black and white."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        made = RRDBNet(SMALL)
    for name, tensor in made.named_parameters():
        if name.endswith("weight"):
            tensor.data *= 0.05 if name.startswith("conv_last") else 3
    made.conv_last.bias.data.fill_(0.5)
    path = tmp_path_factory.mktemp("network") / "small.safetensors"
    save_file(made.state_dict(), path)
    return str(path)


def loaded(
    name: str, network: str, precision: Precision = Precision.FP32, **options: Any
) -> RealESRGAN | Bicubic:
    kind: Any = load_pipeline(name)
    own = {"weights": network, **options} if name.startswith("real") else {}
    pipeline: RealESRGAN | Bicubic = kind(kind.Options(**own))
    pipeline.load(UNUSED, torch.device("cpu"), precision)
    return pipeline


@pytest.mark.parametrize("name", NAMES)
def test_declared_facts(name: str) -> None:
    kind = load_pipeline(name)
    assert kind.name == name
    assert kind.version
    assert set(kind.tiers) == set(kind.precisions) == set(Precision)
    assert set(kind.tiers.values()) == {Tier.APPROX}
    assert is_dataclass(kind.Options)
    for field in fields(kind.Options):
        with pytest.raises(FrozenInstanceError):
            setattr(kind.Options(), field.name, None)


@pytest.mark.parametrize("scale", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("name", NAMES)
def test_pictures_of_every_scale(name: str, scale: int, network: str) -> None:
    pipeline = loaded(name, network)
    before = IMAGE.copy()
    exact = pipeline.upscale_float(IMAGE, scale, seed=1)
    picture = pipeline.upscale(IMAGE, scale, seed=1)
    assert np.array_equal(IMAGE, before)
    assert exact.shape == picture.shape == (48 * scale, 65 * scale, 3)
    assert (exact.dtype, picture.dtype) == (np.float32, np.uint8)
    assert exact.min() >= 0
    assert exact.max() <= 1
    assert np.array_equal((exact * np.float32(255)).round().astype(np.uint8), picture)
    assert np.array_equal(pipeline.upscale(IMAGE, scale, seed=2), picture), "the seed is ignored"


def test_bicubic_is_pillows() -> None:
    wanted = Image.fromarray(IMAGE).resize((130, 96), Image.Resampling.BICUBIC)
    assert np.array_equal(loaded("bicubic", "").upscale(IMAGE, 2, seed=0), np.array(wanted))


def test_another_scale_is_resampled_from_the_native_one(network: str) -> None:
    pipeline = loaded("realesrgan-x4plus", network)
    native, double = (pipeline.upscale_float(IMAGE, scale, seed=0) for scale in (4, 2))
    by_area = native.reshape(96, 2, 130, 2, 3).mean(axis=(1, 3))
    assert np.abs(double - by_area).mean() < np.abs(double - double.mean()).mean() / 4
    assert "Lanczos" in pipeline.decisions(48, 65, 2)["resample"]
    assert "resample" not in pipeline.decisions(48, 65, 4)


def test_stages_are_those_of_the_contract(network: str) -> None:
    order: list[str] = []

    class Listener:
        def enter(self, name: str) -> None:
            order.append(name)

        def exit(self, name: str) -> None:
            assert order[-1] == name, "stages must not nest"

    with listening(Listener()):
        loaded("realesrgan-x4plus", network).upscale(IMAGE, 2, seed=0)
        loaded("bicubic", network).upscale(IMAGE, 2, seed=0)
    assert set(order) == {"preprocess", "network", "postprocess"} <= set(STAGES)


@pytest.mark.parametrize("options", [{}, {"tile": 24, "tile_pad": 4}], ids=["whole", "tiles"])
def test_work_is_counted_alike_on_the_meta_device_and_in_a_real_run(
    options: dict[str, int], network: str
) -> None:
    pipeline = loaded("realesrgan-x4plus", network, **options)
    predicted = pipeline.work(48, 65, 4)
    with WorkCounter() as counter:
        pipeline.upscale(IMAGE, 4, seed=0)
    real = counter.counts()
    assert predicted.total_flops == real.total_flops > 0
    assert predicted.calls == real.calls == {"network": 6 if options else 1}
    assert set(predicted.flops) == {"network"}
    needed = pipeline.memory_estimate(48, 65, 4)
    assert predicted.peak_tensor_bytes < needed < 2 * predicted.peak_tensor_bytes


def test_the_published_network_is_counted_before_it_is_there() -> None:
    """23 blocks of 64: 16.7 million weights, of which 15 stand on LR pixels, others on 4 and 16."""
    counts = RealESRGAN(RealESRGANOptions()).work(64, 64, 4)
    on_lr = 9 * (3 * 64 + 69 * (64 * 32 + 96 * 32 + 128 * 32 + 160 * 32 + 192 * 64) + 64 * 64)
    on_more = 9 * (4 * 64 * 64 + 16 * (2 * 64 * 64 + 64 * 3))
    assert counts.total_flops == 2 * 64 * 64 * (on_lr + on_more)


def test_tiles_with_the_whole_receptive_field_are_the_picture(network: str) -> None:
    """With less they are the nearer the more context they see."""
    whole = loaded("realesrgan-x4plus", network).upscale_float(IMAGE, 4, seed=0)
    errors = []
    for pad in (0, 4, 8, receptive_radius(SMALL)):
        tiled = loaded("realesrgan-x4plus", network, tile=16, tile_pad=pad)
        errors.append(float(np.abs(tiled.upscale_float(IMAGE, 4, seed=0) - whole).max()))
        assert f"16 px and {pad} px" in tiled.decisions(48, 65, 4)["tiles"]
    assert all(more > 5 * less for more, less in pairwise(errors))
    assert errors[-1] <= 2e-6


def test_tiles_cover_every_pixel_once() -> None:
    for height, width, tile, pad in ((48, 65, 16, 4), (16, 100, 33, 0), (7, 7, 16, 3)):
        seen = np.zeros((height, width), int)
        for rows, columns in plan_tiles(height, width, tile, pad):
            seen[rows.start : rows.stop, columns.start : columns.stop] += 1
            assert 0 <= rows.read_start <= rows.start < rows.stop <= rows.read_stop <= height
            assert columns.length <= tile + 2 * pad
        assert (seen == 1).all()
    assert [span.length for span in spans(20, 10, 3)] == [13, 13]
    assert largest_tile(1000, 10, 16) == 16
    assert (largest_tile(10_000, 10, 16) + 20) ** 2 <= 10_000


def test_what_does_not_fit_is_tiled(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = loaded("realesrgan-x4plus", network)
    assert isinstance(pipeline, RealESRGAN)
    assert pipeline.decisions(48, 65, 4)["tiles"].startswith("none")
    room = pipeline._bytes(40 * 40) + pipeline._picture_bytes(48 * 65)
    monkeypatch.setattr(pipeline, "_budget", lambda: room)
    assert pipeline.decisions(48, 65, 4)["tiles"].startswith("20 px and 10 px around")
    assert pipeline.memory_estimate(48, 65, 4) <= room
    whole = loaded("realesrgan-x4plus", network).upscale_float(IMAGE, 4, seed=0)
    assert np.abs(pipeline.upscale_float(IMAGE, 4, seed=0) - whole).max() < 0.05


def test_half_precision_is_near(network: str) -> None:
    exact = loaded("realesrgan-x4plus", network).upscale_float(IMAGE, 4, seed=0)
    half = loaded("realesrgan-x4plus", network, Precision.FP16).upscale_float(IMAGE, 4, seed=0)
    error = np.abs(exact - half).max()
    assert 0 < error < 5e-3


def test_what_cannot_be_is_refused(network: str, tmp_path: Path) -> None:
    for name in NAMES:
        with pytest.raises(PipelineError, match="at least 16"):
            loaded(name, network).upscale(IMAGE[:15], 2, seed=0)
    with pytest.raises(PipelineError, match="load weights before"):
        RealESRGAN(RealESRGANOptions()).upscale(IMAGE, 2, seed=0)
    for options, said in (({"tile": 8}, "tile=8: must be"), ({"tile_pad": -1}, "tile_pad=-1")):
        with pytest.raises(PipelineError, match=said):
            RealESRGANOptions(**options)
    with pytest.raises(PipelineError, match="no such file; `srbench weights fetch --realesrgan`"):
        loaded("realesrgan-x4plus", str(tmp_path / "none.pth"))
