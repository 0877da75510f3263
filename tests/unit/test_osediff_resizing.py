"""OSEDiff's way from the LR image to the network's input, against Pillow step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines.osediff.options import BaselineOptions
from pipelines.osediff.resizing import (
    enlarged_size,
    output_size,
    upscaled_input,
    upscaled_on_device,
)

SIZES = [(128, 128), (16, 16), (17, 23), (47, 49), (131, 16), (130, 129), (16, 200), (61, 128)]
"""Height and width: exact, tiny, odd, below on one side only, and not multiples of 8."""


def published(image: Image.Image, upscale: int, process_size: int) -> Image.Image:
    """The steps of `test_osediff.py`, with Pillow's own default filter."""
    width, height = image.size
    least = process_size // upscale
    if width < least or height < least:
        factor = least / min(width, height)
        image = image.resize((int(factor * width), int(factor * height)))
    image = image.resize((image.width * upscale, image.height * upscale))
    rounded = (image.width - image.width % 8, image.height - image.height % 8)
    # Pillow 13 may take columns first here; the published program ran with earlier ones.
    image = image.resize((rounded[0], image.height), Image.Resampling.LANCZOS)
    return image.resize(rounded, Image.Resampling.LANCZOS)


@pytest.mark.parametrize("process_size", [512, 100, 1])
@pytest.mark.parametrize("scale", [1, 2, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_the_published_steps(
    size: tuple[int, int], scale: int, process_size: int
) -> None:
    pixels = np.random.RandomState(3).randint(0, 256, (*size, 3), dtype=np.uint8)
    wanted = np.asarray(published(Image.fromarray(pixels), scale, process_size))
    found = upscaled_input(pixels, scale, process_size)
    assert found.shape[:2] == output_size(*size, scale, process_size)
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("scale", [1, 3, 4])
@pytest.mark.parametrize("size", SIZES)
def test_the_device_makes_the_same_pixels(size: tuple[int, int], scale: int) -> None:
    """Bit for bit, where black and white make the filters overshoot."""
    pixels = np.random.RandomState(4).choice([0, 255], (*size, 3)).astype(np.uint8)
    planes = torch.from_numpy(pixels).permute(2, 0, 1).int()
    found = upscaled_on_device(planes, scale, 256).permute(1, 2, 0).numpy()
    assert np.array_equal(found, upscaled_input(pixels, scale, 256))


def test_rows_are_filtered_before_columns() -> None:
    """Where Pillow 13 does not: the order shows in the 8 bits between the two."""
    pixels = np.random.RandomState(4).choice([0, 255], (43, 25, 3)).astype(np.uint8)
    columns_first = Image.fromarray(pixels).resize((25, 40), Image.Resampling.LANCZOS)
    columns_first = columns_first.resize((24, 40), Image.Resampling.LANCZOS)
    assert not np.array_equal(upscaled_input(pixels, 1, 1), np.asarray(columns_first))


def test_sides_are_truncated_where_the_factor_is_rounded_down() -> None:
    """128 / 49 * 49 is 127.99…, so the enlarged side is one short and the output 8."""
    assert enlarged_size(49, 98, 128) == (127, 255)
    assert output_size(49, 98, 4, 512) == (504, 1016)


def test_what_is_large_enough_keeps_its_size() -> None:
    assert output_size(128, 160, 4, 512) == (512, 640)
    assert output_size(129, 131, 3, 384) == (384, 392)
    assert output_size(127, 160, 4, BaselineOptions().process_size) == (512, 640)
    assert output_size(30, 50, 4, 1) == (120, 200)
