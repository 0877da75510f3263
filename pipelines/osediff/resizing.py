"""From the LR image to the image that OSEDiff is given, on the host as published.

`test_osediff.py` enlarges an input whose side is below `process_size // scale`, resizes by `scale`
and resamples to the multiples of 8 below, each time with Pillow on 8-bit pixels.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from pipelines.diffusion.pillow_resize import bicubic, lanczos, resize
from pipelines.osediff.options import SIZE_MULTIPLE


def enlarged_size(height: int, width: int, least: int) -> tuple[int, int]:
    """Height and width of the input, made larger where a side is below `least`.

    Truncated as published: 128 / 47 * 47 is 127 there, and the other side follows.
    """
    if min(height, width) >= least:
        return height, width
    factor = least / min(height, width)
    return int(factor * height), int(factor * width)


def output_size(height: int, width: int, scale: int, process_size: int) -> tuple[int, int]:
    """Height and width of the picture for an LR size.

    Args:
        height: Of the LR image, at least 16.
        width: The same.
        scale: Integer factor.
        process_size: See `OSEDiffOptions`.
    """
    sides = (scale * side for side in enlarged_size(height, width, process_size // scale))
    rows, columns = (side - side % SIZE_MULTIPLE for side in sides)
    return rows, columns


def upscaled_input(pixels: NDArray[np.uint8], scale: int, process_size: int) -> NDArray[np.uint8]:
    """The LR image [H, W, 3] in the size of `output_size`."""
    image = Image.fromarray(pixels)
    for step in steps(image.height, image.width, scale, process_size):
        image = _resized(image, step)
    return np.array(image)


def upscaled_on_device(pixels: torch.Tensor, scale: int, process_size: int) -> torch.Tensor:
    """`upscaled_input` bit for bit, on any device: [3, H, W] int32 in 0 .. 255, in and out."""
    height, width = pixels.shape[1:]
    for step in steps(height, width, scale, process_size):
        weigh = lanczos if step.filter is Image.Resampling.LANCZOS else bicubic
        pixels = resize(pixels, step.height, step.width, weigh)
    return pixels


class Step(NamedTuple):
    """One resize: height, width and filter."""

    height: int
    width: int
    filter: Image.Resampling


def steps(height: int, width: int, scale: int, process_size: int) -> list[Step]:
    """What is done to an LR image of that size, in this order."""
    rows, columns = enlarged_size(height, width, process_size // scale)
    return [
        Step(rows, columns, Image.Resampling.BICUBIC),
        Step(rows * scale, columns * scale, Image.Resampling.BICUBIC),
        Step(*output_size(height, width, scale, process_size), Image.Resampling.LANCZOS),
    ]


def _resized(image: Image.Image, step: Step) -> Image.Image:
    """Rows first, as Pillow did up to version 12; later ones shrink columns first where they win.

    Both round to 8 bits in between, so the order tells.
    """
    narrow = image.resize((step.width, image.height), step.filter)
    return narrow.resize((step.width, step.height), step.filter)
