"""The region around the worst block as pictures in a record, for eyes."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

from srbench.fidelity.blocks import BLOCK

CROP = 256
"""Output pixels a side: a block with what surrounds it, at some 0.3 MB a case."""

Picture = NDArray[np.uint8]


def crops_around(
    lr: Picture, reference: Picture, candidate: Picture, top: int, left: int
) -> dict[str, str]:
    """The same region of all pictures around a block, the whole picture where it is not larger.

    Args:
        lr: The input, [h, w, 3]; enlarged by repetition.
        reference: [H, W, 3].
        candidate: Of the same shape.
        top: First row of the block.
        left: First column of the block.

    Returns:
        `input`, `baseline`, `candidate` -> base64 PNG, all of one size.
    """
    height, width = reference.shape[:2]
    rows = _around(top, height)
    columns = _around(left, width)
    region = np.ix_(rows * lr.shape[0] // height, columns * lr.shape[1] // width)
    return {
        "input": _png(lr[region]),
        "baseline": _png(reference[np.ix_(rows, columns)]),
        "candidate": _png(candidate[np.ix_(rows, columns)]),
    }


def _around(start: int, length: int) -> NDArray[np.int64]:
    size = min(CROP, length)
    first = min(max(start + (min(BLOCK, length) - size) // 2, 0), length - size)
    return np.arange(first, first + size)


def _png(picture: Picture) -> str:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format="PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode("ascii")
