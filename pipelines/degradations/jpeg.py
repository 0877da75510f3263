"""JPEG on the device: what compression and decompression do to pixels, without the bytes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

_BLOCK = 8
_UNIT = 16
"""Side of what is coded together: two blocks of luma, one of the halved chroma."""
_LOSSLESS = 1e-6
"""Least factor of the tables: at quality 100 it is 0, and nothing can be divided by that."""

# ITU-T T.81, tables K.1 and K.2.
_LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA_CORNER = ((17, 18, 24, 47), (18, 21, 26, 66), (24, 26, 56, 99), (47, 66, 99, 99))
_CHROMA_REST = 99


@dataclass(frozen=True, slots=True)
class _Tables:
    """Constants on a device: the cosine transform [8, 8] and the two tables [8, 1, 8]."""

    transform: torch.Tensor
    luma: torch.Tensor
    chroma: torch.Tensor


def jpeg(pictures: torch.Tensor, quality: torch.Tensor) -> torch.Tensor:
    """Baseline JPEG with 4:2:0 chroma, as DiffJPEG simulates it.

    Against libjpeg: nothing but coefficients is rounded, tables are scaled without rounding and
    used transposed, sides are padded with black to multiples of 16, chroma is enlarged by
    repetition. All of it is what the published training saw. There is no gradient.

    Args:
        pictures: [B, 3, H, W] float32 RGB in [0, 1].
        quality: [B] in [1, 100], on the same device.

    Returns:
        [B, 3, H, W] in [0, 1].
    """
    height, width = pictures.shape[-2:]
    tables = _tables(pictures.device)
    factor = torch.where(quality < 50, 50 / quality, 2 - quality / 50)
    factor = factor.clamp_min(_LOSSLESS).view(-1, 1, 1, 1, 1, 1)
    framed = F.pad(pictures, (0, -width % _UNIT, 0, -height % _UNIT))
    with _full_float32(pictures.device):
        luma, chroma = _to_planes(framed)
        luma = _coded(luma, tables.luma * factor, tables.transform)
        chroma = _coded(chroma, tables.chroma * factor, tables.transform)
    return _to_rgb(luma, chroma)[..., :height, :width]


def _to_planes(pictures: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Y - 128 [B, 1, H, W], and Cb and Cr around 0 [B, 2, H / 2, W / 2], in levels of 255."""
    red, green, blue = (255 * pictures).split(1, dim=1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue - 128
    bluish = -0.168736 * red - 0.331264 * green + 0.5 * blue
    reddish = 0.5 * red - 0.418688 * green - 0.081312 * blue
    return luma, F.avg_pool2d(torch.cat((bluish, reddish), dim=1), 2)


def _to_rgb(luma: torch.Tensor, chroma: torch.Tensor) -> torch.Tensor:
    bluish, reddish = F.interpolate(chroma, scale_factor=2, mode="nearest").split(1, dim=1)
    luma = luma + 128
    red = luma + 1.402 * reddish
    green = luma - 0.344136 * bluish - 0.714136 * reddish
    blue = luma + 1.772 * bluish
    return torch.cat((red, green, blue), dim=1).clamp_(0, 255).div_(255)


def _coded(planes: torch.Tensor, table: torch.Tensor, transform: torch.Tensor) -> torch.Tensor:
    """Cosine transform of 8 x 8 blocks, rounding to multiples of the table, and back."""
    shape = planes.shape
    rows = transform @ planes.unflatten(-2, (-1, _BLOCK))
    blocks = rows.unflatten(-1, (-1, _BLOCK)) @ transform.T
    rounded = (blocks / table).round_() * table
    rows = (rounded @ transform).flatten(-2)
    restored: torch.Tensor = (transform.T @ rows).reshape(shape)
    return restored


@lru_cache(maxsize=16)
def _tables(device: torch.device) -> _Tables:
    positions, frequencies = np.arange(_BLOCK), np.arange(_BLOCK)[:, None]
    cosines = np.cos((2 * positions + 1) * frequencies * np.pi / (2 * _BLOCK)) / 2
    cosines[0] /= np.sqrt(2)
    chroma = np.full((_BLOCK, _BLOCK), _CHROMA_REST)
    chroma[:4, :4] = _CHROMA_CORNER

    def on_device(values: object) -> torch.Tensor:
        return torch.tensor(np.asarray(values), dtype=torch.float32, device=device)

    return _Tables(
        on_device(cosines),
        on_device(np.transpose(_LUMA_TABLE)[:, None]),
        on_device(chroma.T[:, None]),
    )


@contextmanager
def _full_float32(device: torch.device) -> Iterator[None]:
    """No autocast and no TF32, both of which would move coefficients to other multiples."""
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    matmul.allow_tf32 = False
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        matmul.allow_tf32 = before
