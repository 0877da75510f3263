"""Tile geometry against the boxes of the published program."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.diffusion.tiling import (
    Box,
    VaeTile,
    gaussian_weights,
    latent_tiles,
    tile_offsets,
    vae_tiles,
)

GRIDS = json.loads((Path(__file__).parent / "data" / "s3diff_grids.json").read_text())


@pytest.mark.parametrize("name", GRIDS)
def test_unet_tiles_equal_the_published_grid(name: str) -> None:
    case = GRIDS[name]
    height, width = case["latent_hw"]
    tiles = latent_tiles(height, width, 96, 32)
    if case["unet"] is None:
        assert tiles.offsets == ((0, 0),)
        assert (tiles.tile_height, tiles.tile_width) == (height, width)
        return
    assert tiles.tile_height == tiles.tile_width == case["unet"]["tile"]
    assert tiles.offsets == tuple(
        (y, x) for x in case["unet"]["x_offsets"] for y in case["unet"]["y_offsets"]
    )


def _boxes(tiles: tuple[VaeTile, ...], which: str) -> list[list[int]]:
    boxes: list[Box] = [getattr(tile, which) for tile in tiles]
    return [[b.left, b.right, b.top, b.bottom] for b in boxes]


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize(
    ("network", "size", "tile", "pad", "ratio"),
    [
        ("vae_encoder", "padded_hw", 1024, 32, (1, 8)),
        ("vae_decoder", "latent_hw", 224, 11, (8, 1)),
    ],
)
def test_vae_tiles_equal_the_published_boxes(
    name: str, network: str, size: str, tile: int, pad: int, ratio: tuple[int, int]
) -> None:
    case = GRIDS[name]
    height, width = case[size]
    tiles = vae_tiles(height, width, tile, pad, numerator=ratio[0], denominator=ratio[1])
    if case[network] is None:
        assert len(tiles) == 1
        return
    assert _boxes(tiles, "source") == case[network]["in_boxes_x1x2y1y2"]
    assert _boxes(tiles, "target") == case[network]["out_boxes_x1x2y1y2"]


@settings(deadline=None, max_examples=60)
@given(
    height=st.integers(8, 400),
    width=st.integers(8, 400),
    tile=st.integers(4, 160),
    pad=st.sampled_from([0, 4, 11]),
)
def test_decoder_tiles_partition_the_output(height: int, width: int, tile: int, pad: int) -> None:
    area = 0
    covered = torch.zeros(height, width, dtype=torch.bool)
    for t in vae_tiles(height, width, tile, pad, numerator=8, denominator=1):
        rows = slice(t.target.top // 8, t.target.bottom // 8)
        covered[rows, t.target.left // 8 : t.target.right // 8] = True
        area += t.target.height * t.target.width
        assert 0 <= t.crop.top <= t.crop.bottom <= t.source.height * 8
        assert 0 <= t.crop.left <= t.crop.right <= t.source.width * 8
    assert bool(covered.all())
    assert area == 64 * height * width


@settings(deadline=None)
@given(
    length=st.integers(8, 600),
    tile=st.integers(8, 160),
    overlap=st.integers(0, 7),
)
def test_offsets_cover_the_axis(length: int, tile: int, overlap: int) -> None:
    tile = min(tile, length)
    offsets = tile_offsets(length, tile, overlap)
    assert offsets[0] == 0
    assert offsets[-1] + tile == length
    gaps = [b - a for a, b in itertools.pairwise(offsets)]
    assert all(0 < gap <= tile - overlap for gap in gaps)


def test_a_short_side_under_the_overlap_ends() -> None:
    """The published loop never ends here (output 256 px high, over 2304 px wide)."""
    tiles = latent_tiles(32, 320, 96, 32)
    assert tiles.tile_height == 32
    assert {top for top, _ in tiles.offsets} == {0}
    assert max(left for _, left in tiles.offsets) == 320 - 32


def test_blend_is_centred_on_x_and_half_a_latent_off_on_y() -> None:
    weights = gaussian_weights(96)
    assert torch.allclose(weights, weights.flip(1), rtol=1e-12, atol=0)
    assert not torch.allclose(weights, weights.flip(0), rtol=1e-3, atol=0)
    peak_row = int(weights[:, 48].argmax())
    assert peak_row == 48
    corner = float(weights[0, 0] / weights.max())
    assert corner == pytest.approx(2.9e-10 / float(weights.max()), rel=0.6)
