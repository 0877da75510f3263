"""Where training patches are cut from a photograph, and how their LR side is made.

Two published rules exist: that of the MindSpore port and that of the authors' packing (spec section
5). They differ in which windows there are and in whether the LR picture is reduced from each window
or from the whole photograph.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from math import lcm

import numpy as np
from numpy.typing import NDArray

from pipelines.matlab_resize import imresize

AUTHORS_VALIDATION_SIDE = 2040
"""The authors keep only the first window of this side of a validation picture."""
_UNET_MULTIPLE = 8

Rgb = NDArray[np.uint8]


class Rule(StrEnum):
    """Whose windows are cut."""

    PORT = "port"
    AUTHORS = "authors"


@dataclass(frozen=True, slots=True)
class Window:
    """A rectangle of HR pixels."""

    top: int
    left: int
    height: int
    width: int

    def of(self, picture: Rgb) -> Rgb:
        """That part of a picture, as a view."""
        return picture[self.top : self.top + self.height, self.left : self.left + self.width]

    def reduced(self, scale: int) -> Window:
        """The same rectangle in LR pixels; its corner and sides are multiples of `scale`."""
        return Window(
            self.top // scale, self.left // scale, self.height // scale, self.width // scale
        )


@dataclass(frozen=True, slots=True)
class Cutting:
    """How pairs are cut: by whose rule, for which scale, in windows of which side."""

    rule: Rule
    scale: int
    crop_size: int

    def windows(self, split: str, height: int, width: int) -> list[Window]:
        """Windows of a picture of that size, row by row; none where it is too small."""
        if self.rule is Rule.AUTHORS:
            height, width = height // self.scale * self.scale, width // self.scale * self.scale
        if split == "val":
            if self.rule is Rule.AUTHORS:
                height = min(height, AUTHORS_VALIDATION_SIDE // self.scale * self.scale)
                width = min(width, AUTHORS_VALIDATION_SIDE // self.scale * self.scale)
            return [Window(0, 0, height, width)] if height and width else []
        spans = port_spans if self.rule is Rule.PORT else authors_spans
        return [
            Window(top, left, rows, columns)
            for top, rows in spans(height, self.crop_size)
            for left, columns in spans(width, self.crop_size)
        ]

    def pairs(self, split: str, picture: Rgb) -> Iterator[tuple[Rgb, Rgb]]:
        """HR and LR, [h, w, 3] uint8, of each of `windows`, in that order."""
        factor = Fraction(1, self.scale)
        windows = self.windows(split, *picture.shape[:2])
        if self.rule is Rule.PORT:
            for window in windows:
                yield window.of(picture), imresize(window.of(picture), factor)
            return
        whole = crop_to_multiple(picture, self.scale)
        reduced = imresize(whole, factor)
        for window in windows:
            yield window.of(whole), window.reduced(self.scale).of(reduced)


def port_spans(length: int, crop_size: int) -> list[tuple[int, int]]:
    """Start and length along one side: every `crop_size`, the last one moved in to the border."""
    if length < crop_size:
        return []
    starts = [*range(0, length - crop_size, crop_size), length - crop_size]
    return [(start, crop_size) for start in starts]


def authors_spans(length: int, crop_size: int) -> list[tuple[int, int]]:
    """Start and length along one side: cut off at the border, dropped up to half a window."""
    starts = range(0, max(length - crop_size // 2, 0), crop_size)
    return [(start, min(crop_size, length - start)) for start in starts]


def crop_to_multiple(picture: Rgb, multiple: int) -> Rgb:
    """The picture without the last rows and columns beyond a multiple."""
    height, width = (side // multiple * multiple for side in picture.shape[:2])
    return picture[:height, :width]


def hr_multiple(scale: int) -> int:
    """What the sides of an HR picture are cropped to: 2 x scale, and what the UNet halves.

    The published loaders crop to 2 x scale, which for their scales 4 and 8 is a multiple of 8.
    """
    return lcm(2 * scale, _UNET_MULTIPLE)
