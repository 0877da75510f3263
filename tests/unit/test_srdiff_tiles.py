"""Tiles of the UNet: geometry, exactness where the network allows it, and seams."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.data import astronaut

from pipelines.matlab_resize import imresize, upsample_lr
from pipelines.srdiff import SRDiff, optimized
from pipelines.srdiff.checkpoint import Tensors, from_tensors
from pipelines.srdiff.config import SIZE_MULTIPLE, Config
from pipelines.srdiff.fast_sampler import FastSampler
from pipelines.srdiff.fast_unet import FastUNet
from pipelines.srdiff.options import DdimOptions, OptimizedOptions
from pipelines.srdiff.rrdb import condition
from pipelines.srdiff.sampling import Noise, to_picture
from pipelines.srdiff.steps import ancestral_steps, ddim_steps
from pipelines.srdiff.tiles import Tiles, largest_tile, plan_tiles
from pipelines.srdiff.weight_sources import resolve_weights
from tests.golden.srdiff_recipe import golden_tensors

Tensor = torch.Tensor
SMALL = Config(hidden_size=8, dim_mults=(1, 2, 3, 4), rrdb_features=8, rrdb_blocks=2, timesteps=4)
SIZE = (72, 104)
SIDE = 128


@pytest.fixture(scope="module", autouse=True)
def _inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


sides = st.integers(2, 60).map(lambda n: n * SIZE_MULTIPLE)


@settings(deadline=None, max_examples=60)
@given(sides, sides, st.integers(1, 12), st.integers(0, 20))
def test_any_plan_covers_the_picture_with_weights_of_1(
    height: int, width: int, overlap_cells: int, more_cells: int
) -> None:
    overlap = overlap_cells * SIZE_MULTIPLE
    tile = 2 * overlap + more_cells * SIZE_MULTIPLE
    tiles = plan_tiles(height, width, tile, overlap)
    total = torch.zeros(height, width, dtype=torch.float64)
    for (top, left), weight in zip(tiles.offsets, tiles.weights(height, width, total), strict=True):
        assert top % SIZE_MULTIPLE == left % SIZE_MULTIPLE == 0
        assert weight.shape == (tiles.height, tiles.width)
        assert weight.min() >= 0
        total[top : top + tiles.height, left : left + tiles.width] += weight
    assert torch.allclose(total, torch.ones_like(total), rtol=0, atol=1e-12)
    assert tiles.height == min(tile, height)
    assert tiles.width == min(tile, width)


@settings(deadline=None, max_examples=60)
@given(sides, st.integers(1, 12), st.integers(0, 20))
def test_neighbours_overlap_as_much_as_asked_and_fade(
    length: int, overlap_cells: int, more_cells: int
) -> None:
    overlap = overlap_cells * SIZE_MULTIPLE
    tile = 2 * overlap + more_cells * SIZE_MULTIPLE
    tiles = plan_tiles(length, 16, tile, overlap)
    tops = [top for top, _ in tiles.offsets]
    assert tops[0] == 0
    assert tops[-1] + tiles.height == length
    gaps = [later - earlier for earlier, later in pairwise(tops)]
    assert all(0 < gap <= tile - overlap for gap in gaps)
    for top, weight in zip(tops, tiles.weights(length, 16, torch.zeros(1)), strict=True):
        if top > 0:
            assert weight[: overlap // 4].max() == 0
        if top + tiles.height < length:
            assert weight[-overlap // 4 :].max() == 0


def test_a_picture_that_is_not_larger_is_one_tile() -> None:
    assert plan_tiles(64, 48, 64, 32) == Tiles(64, 48, ((0, 0),), 32)
    assert len(plan_tiles(72, 48, 64, 32)) == 2


@pytest.mark.parametrize("pixels", [10, 64**2, 100_000, 10**8])
def test_the_largest_tile_of_a_budget(pixels: int) -> None:
    side = largest_tile(pixels, 32)
    assert side % SIZE_MULTIPLE == 0
    assert side >= 64
    assert side == 64 or side**2 <= pixels < (side + SIZE_MULTIPLE) ** 2


def pointwise_tensors() -> Tensors:
    """A network whose every pixel hears only of the 8x8 cell that it lies in.

    Off-centre taps are zero, so whatever is cut off at a tile's border is not missed: tiles are
    exact if, and only if, samples, conditions and weights are put where they belong.
    """
    tensors = golden_tensors(SMALL)
    scale = SMALL.scale
    for name, tensor in tensors.items():
        keep = torch.ones(tensor.shape[2:]) if tensor.dim() == 4 else None
        if keep is None or not name.startswith("denoise_fn."):
            continue
        if name.endswith("cond_proj.weight"):
            keep = torch.zeros(2 * scale, 2 * scale)
            keep[scale // 2 : -scale // 2, scale // 2 : -scale // 2] = 1
        elif keep.numel() > 1:
            rim = (len(keep) - 1) // 2
            keep = torch.zeros_like(keep)
            keep[rim : len(keep) - rim, rim : len(keep) - rim] = 1
        tensors[name] = tensor * keep * (9 if keep.numel() == 9 else 1)
    return tensors


def sampled(
    tensors: Tensors, tiles: Tiles | None, options: OptimizedOptions, defer: bool = False
) -> Tensor:
    """Two samples; deferred are the biases, as on CUDA."""
    model = SRDiff(from_tensors(SMALL, tensors), dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    shape = (1, 3, *(side // SMALL.scale for side in SIZE))
    lr = torch.randn(shape, generator=generator, dtype=torch.float64).clamp(-1, 1)
    steps = ancestral_steps(model.schedule)
    unet = FastUNet(model.unet, steps.timesteps, options, torch.float64)
    unet._defer = defer
    noises = [Noise(seed, torch.empty(1, 3, *SIZE, dtype=torch.float64)) for seed in (3, 4)]
    x = torch.cat([noise.draw() for noise in noises])
    sampler = FastSampler(unet, steps, fused=options.fused_step)
    return sampler.sample(x, condition(model.encode(lr)), noises, tiles)


def worst(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max())


@pytest.mark.parametrize("hoisted", [True, False])
@pytest.mark.parametrize(("tile", "overlap"), [(48, 16), (32, 8), (104, 24)])
def test_tiles_put_everything_where_it_belongs(tile: int, overlap: int, hoisted: bool) -> None:
    options = OptimizedOptions(hoist_condition=hoisted)
    tiles = plan_tiles(*SIZE, tile, overlap)
    assert (len(tiles) > 1) == (tile < max(SIZE))
    tensors = pointwise_tensors()
    whole = sampled(tensors, None, options)
    assert float(whole.std()) > 0.1
    assert worst(sampled(tensors, tiles, options), whole) <= 1e-10


def test_one_tile_is_the_whole_picture() -> None:
    tensors = golden_tensors(SMALL)
    whole = sampled(tensors, None, OptimizedOptions())
    single = sampled(tensors, plan_tiles(*SIZE, 128, 32), OptimizedOptions())
    assert worst(single, whole) <= 1e-10
    assert worst(sampled(tensors, plan_tiles(*SIZE, 48, 16), OptimizedOptions()), whole) > 1e-3


def test_a_bias_left_to_the_sampler_is_added_once_where_tiles_overlap() -> None:
    """On CUDA the last bias is not in the predictions that are blended."""
    tensors = golden_tensors(SMALL)
    tiles = plan_tiles(*SIZE, 48, 16)
    wanted = sampled(tensors, tiles, OptimizedOptions())
    found = sampled(tensors, tiles, OptimizedOptions(), defer=True)
    assert worst(found, wanted) <= 1e-10


@pytest.fixture(scope="module")
def pictures() -> dict[str, Tensor]:
    """A photograph by the trained small network in grey levels: whole, in tiles, in cut tiles."""
    model = SRDiff.from_checkpoint(resolve_weights("mini", "cpu").path)
    lr = imresize(np.ascontiguousarray(astronaut()[:SIDE, :SIDE]), Fraction(1, 4))
    lr_up = torch.from_numpy(upsample_lr(lr, 4)).permute(2, 0, 1)[None].float().contiguous()
    steps = ddim_steps(model.schedule, 10, 1.0)
    unet = FastUNet(model.unet, steps.timesteps, OptimizedOptions(), torch.float32)
    sampler = FastSampler(unet, steps, fused=True)
    planes = torch.from_numpy(lr).permute(2, 0, 1)[None].float() / 127.5 - 1
    maps = condition(model.encode(planes))
    cut = Tiles(64, 64, tuple((top, left) for top in (0, 64) for left in (0, 64)), overlap=1)
    painted = {}
    for name, tiles in (("whole", None), ("tiled", plan_tiles(SIDE, SIDE, 64, 32)), ("cut", cut)):
        noise = Noise(1, lr_up)
        residual = sampler.sample(noise.draw(), maps, [noise], tiles)
        painted[name] = (to_picture(residual, lr_up).clamp(-1, 1) + 1) * 127.5
    return painted


def seam(picture: Tensor, borders: list[int]) -> float:
    """Mean step across the columns where tiles end, over that between all other columns."""
    steps = picture.diff(dim=-1).abs().mean(dim=(0, 1, 2))
    at_borders = torch.zeros(len(steps), dtype=torch.bool)
    at_borders[[border - 1 for border in borders]] = True
    return float(steps[at_borders].mean() / steps[~at_borders].mean())


def test_a_photograph_in_tiles_shows_no_seams(pictures: dict[str, Tensor]) -> None:
    """It is the whole picture within a level or two, and no column differs more than others."""
    difference = pictures["tiled"] - pictures["whole"]
    assert float(difference.square().mean()) ** 0.5 < 0.2
    borders = [32, 64, 96]
    assert seam(difference, borders) < 3
    assert abs(seam(pictures["tiled"], borders) - seam(pictures["whole"], borders)) < 0.05


def test_tiles_without_overlap_would_show(pictures: dict[str, Tensor]) -> None:
    difference = pictures["cut"] - pictures["whole"]
    assert float(difference.square().mean()) ** 0.5 > 1
    assert seam(difference, [64]) > 10
    assert seam(pictures["cut"], [64]) > seam(pictures["whole"], [64]) + 0.2


@pytest.mark.parametrize("free_mib", [1500, 2500, 6000])
def test_tiles_are_chosen_to_fit_and_foretold(
    free_mib: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole picture of DIV2K in float32, which needs 3.6 GiB untiled."""
    monkeypatch.setattr(optimized, "free_bytes", lambda *_: free_mib * 2**20)
    # On the meta device no transposed convolution answers in channels_last, as real ones do.
    pipeline = optimized.SRDiffDdim(DdimOptions(steps=1, channels_last=False))
    foretold = pipeline.memory_estimate(339, 510, 4)
    peak = pipeline.work(339, 510, 4).peak_tensor_bytes
    assert peak <= foretold <= free_mib * 2**20
    assert foretold <= 1.5 * peak
    assert (pipeline.decisions(339, 510, 4)["tiles"] == "none") is (free_mib == 6000)
