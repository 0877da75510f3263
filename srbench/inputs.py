"""Inputs: real photographs cut to exactly the size of a case."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from srbench.cases import MATRICES, Case
from srbench.errors import UsageError

PHOTOGRAPHS = (
    ("astronaut.png", "NASA, public domain"),
    ("coffee.png", "Rachel Michetti, CC0"),
    ("chelsea.png", "Stefan van der Walt, CC0"),
    ("rocket.jpg", "SpaceX, public domain"),
)
"""Photographs that scikit-image ships without conditions."""

MAX_MIRROR = 2
"""An image is mirrored up to this factor and resampled beyond it, where mirror tiles would show."""


@dataclass(frozen=True, slots=True)
class CaseInput:
    """The low-resolution image of a case.

    Attributes:
        pixels: [height, width, 3] RGB, uint8.
        sha256: Of the pixels' bytes, rows first.
        source: Which photograph and what was done to it.
    """

    pixels: NDArray[np.uint8]
    sha256: str
    source: str


def case_input(case: Case, folder: Path | None, index: int = 0) -> CaseInput:
    """The image of a case, the same on every machine.

    Args:
        case: Size wanted.
        folder: The user's own images; None takes the photographs of scikit-image.
        index: Another image of the same case.

    Raises:
        UsageError: No image is there, or one cannot be read.
    """
    from srbench.images import list_images, read_image

    turn = _turn(case) + index
    if folder is not None:
        images = list_images(folder)
        path = images[turn % len(images)]
        credit = path.name
    else:
        name, owner = PHOTOGRAPHS[turn % len(PHOTOGRAPHS)]
        path = _photograph_folder() / name
        credit = f"scikit-image {name} ({owner})"
    pixels, change = fit(read_image(path), case.width, case.height)
    return CaseInput(
        pixels=pixels,
        sha256=hashlib.sha256(pixels.tobytes()).hexdigest(),
        source=f"{credit}, {change}",
    )


def fit(image: NDArray[np.uint8], width: int, height: int) -> tuple[NDArray[np.uint8], str]:
    """Cut the centre to a size; mirror or resample first only where the image is too small.

    Returns:
        [height, width, 3] and what was done, in words.
    """
    rows, columns = image.shape[:2]
    change = f"centre crop of {columns}x{rows}"
    factor = max(width / columns, height / rows)
    if factor > MAX_MIRROR:
        from PIL import Image

        size = (round(columns * factor), round(rows * factor))
        size = (max(size[0], width), max(size[1], height))
        image = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
        change = f"Lanczos x{factor:.3g} of {columns}x{rows}, centre crop"
    elif factor > 1:
        missing = (max(0, height - rows), max(0, width - columns))
        pads = [(side // 2, side - side // 2) for side in missing]
        image = np.pad(image, [*pads, (0, 0)], mode="reflect")
        change = f"mirrored at the borders of {columns}x{rows}, centre crop"
    top = (image.shape[0] - height) // 2
    left = (image.shape[1] - width) // 2
    return np.ascontiguousarray(image[top : top + height, left : left + width]), change


def _turn(case: Case) -> int:
    """Which photograph a case gets: by its place in its matrix, whatever else is run beside it."""
    for matrix in MATRICES.values():
        if case in matrix:
            return matrix.index(case)
    return zlib.crc32(case.name.encode())


def _photograph_folder() -> Path:
    spec = find_spec("skimage")
    if spec is None or spec.origin is None:
        raise UsageError("scikit-image and its photographs are not installed; give --inputs FOLDER")
    return Path(spec.origin).parent / "data"
