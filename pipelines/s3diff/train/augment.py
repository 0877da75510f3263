"""DiffAugment (Zhao et al., NeurIPS 2020): what a discriminator sees is changed, differentiably.

Real and generated pictures alike, so a discriminator cannot learn few photographs by heart, and
the generator does not learn the changes. Policy `color,translation,cutout` with the ranges of the
published program; every picture of a batch has its own draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

TRANSLATION_RATIO = 1 / 8
CUTOUT_RATIO = 1 / 2


@dataclass(frozen=True, slots=True)
class Draw:
    """What happens to each picture of a batch; all [B].

    Attributes:
        brightness: Added to all values, [-0.5, 0.5).
        saturation: Factor of the distance from the pixel's grey, [0, 2).
        contrast: Factor of the distance from the picture's mean, [0.5, 1.5).
        shift_y: Rows that the picture moves up, int64, at most an eighth of the height.
        shift_x: Columns that it moves to the left.
        cut_y: First row of what is cut out, int64; may be outside.
        cut_x: First column.
    """

    brightness: torch.Tensor
    saturation: torch.Tensor
    contrast: torch.Tensor
    shift_y: torch.Tensor
    shift_x: torch.Tensor
    cut_y: torch.Tensor
    cut_x: torch.Tensor


def diff_augment(image: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Augment [B, 3, H, W] in [-1, 1] (the result may leave it) from a generator on its device.

    What moves in from outside and what is cut out is 0, mid-grey.
    """
    _, _, height, width = image.shape
    return apply(image, draw(len(image), height, width, generator))


def draw(batch: int, height: int, width: int, generator: torch.Generator) -> Draw:
    """Draw for `batch` pictures of one size, on the generator's device."""
    device = generator.device

    def uniform(low: float, high: float) -> torch.Tensor:
        return low + (high - low) * torch.rand(batch, generator=generator, device=device)

    def integer(low: int, high: int) -> torch.Tensor:
        return torch.randint(low, high, (batch,), generator=generator, device=device)

    def shift(size: int) -> torch.Tensor:
        most = int(size * TRANSLATION_RATIO + 0.5)
        return integer(-most, most + 1)

    def cut(size: int) -> torch.Tensor:
        length = _cut_length(size)
        return integer(0, size + 1 - length % 2) - length // 2

    return Draw(
        brightness=uniform(-0.5, 0.5),
        saturation=uniform(0, 2),
        contrast=uniform(0.5, 1.5),
        shift_y=shift(height),
        shift_x=shift(width),
        cut_y=cut(height),
        cut_x=cut(width),
    )


def apply(image: torch.Tensor, drawn: Draw) -> torch.Tensor:
    """Change [B, C, H, W] as drawn: colour, then translation, then cutout."""
    return _move_and_cut(_recolor(image, drawn), drawn)


def _recolor(image: torch.Tensor, drawn: Draw) -> torch.Tensor:
    image = image + _per_picture(drawn.brightness, image)
    grey = image.mean(dim=1, keepdim=True)
    image = torch.lerp(grey, image, _per_picture(drawn.saturation, image))
    mean = image.mean(dim=(1, 2, 3), keepdim=True)
    return torch.lerp(mean, image, _per_picture(drawn.contrast, image))


def _per_picture(values: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    return values.to(image.dtype).view(-1, 1, 1, 1)


def _move_and_cut(image: torch.Tensor, drawn: Draw) -> torch.Tensor:
    """By gathering rows, then columns.

    Its gradient scatters each value to a place of its own (those from outside are zeros), so it is
    the same on every run on CUDA, where the gradient of plain indexing also sorts.
    """
    _, _, height, width = image.shape
    rows = torch.arange(height, device=image.device)
    columns = torch.arange(width, device=image.device)
    y, x = rows + drawn.shift_y[:, None], columns + drawn.shift_x[:, None]  # [B, H], [B, W]
    inside = _within(y, height)[:, :, None] & _within(x, width)[:, None, :]
    cut = (
        _within(rows - drawn.cut_y[:, None], _cut_length(height))[:, :, None]
        & _within(columns - drawn.cut_x[:, None], _cut_length(width))[:, None, :]
    )
    seen = (inside & ~cut)[:, None].to(image.dtype)
    y, x = y.clamp(0, height - 1), x.clamp(0, width - 1)
    moved = image.gather(2, y[:, None, :, None].expand_as(image))
    return moved.gather(3, x[:, None, None, :].expand_as(image)) * seen


def _within(position: torch.Tensor, size: int) -> torch.Tensor:
    return (position >= 0) & (position < size)


def _cut_length(size: int) -> int:
    return int(size * CUTOUT_RATIO + 0.5)
