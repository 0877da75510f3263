"""Cases: what is upscaled, by which factor; the documented matrix and the smoke matrix."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from srbench.errors import UsageError, did_you_mean

MIN_SIDE = 16
MAX_SCALE = 16
_NAME = re.compile(r"(\d+)[xX×](\d+)[xX×](\d+)")


@dataclass(frozen=True, slots=True, order=True)
class Case:
    """One size and factor.

    Attributes:
        width: Of the low-resolution image, pixels.
        height: Of the low-resolution image, pixels.
        scale: Integer upscaling factor.
    """

    width: int
    height: int
    scale: int

    @property
    def name(self) -> str:
        """`WIDTHxHEIGHTxSCALE`, the name everywhere."""
        return f"{self.width}x{self.height}x{self.scale}"

    @property
    def output_pixels(self) -> int:
        """Pixels of the upscaled image."""
        return self.width * self.height * self.scale**2

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a name.

        Raises:
            UsageError: The text is no case, or its sides or scale are out of range.
        """
        match = _NAME.fullmatch(text.strip())
        if match is None:
            known = [*MATRICES, *(case.name for cases in MATRICES.values() for case in cases)]
            matrices = " or ".join(f"'{name}'" for name in MATRICES)
            raise UsageError(
                f"--cases '{text}': expected WIDTHxHEIGHTxSCALE (width first), "
                f"{matrices}.{did_you_mean(text, known)}"
            )
        width, height, scale = (int(group) for group in match.groups())
        if min(width, height) < MIN_SIDE:
            raise UsageError(f"--cases '{text}': sides must be at least {MIN_SIDE} pixels")
        if not 1 <= scale <= MAX_SCALE:
            raise UsageError(f"--cases '{text}': the scale must be 1 to {MAX_SCALE}")
        return cls(width, height, scale)


DOCUMENTED = (
    Case(128, 128, 4),
    Case(512, 512, 2),
    Case(720, 1280, 2),
    Case(1024, 1024, 2),
    Case(1920, 1080, 2),
)
"""The rows of the published acceleration tables."""

SMOKE = (Case(32, 32, 4), Case(48, 32, 4), Case(64, 64, 4))
"""Small enough for two CPU cores and a minute."""

OSEDIFF_SMOKE = (Case(128, 128, 4), Case(160, 128, 4))
"""The published size, and an oblong one; smaller sides would be enlarged to 128 pixels first."""

SRDIFF = (Case(80, 68, 4), Case(128, 128, 4), Case(512, 512, 4), Case(510, 339, 4))
"""The output of the published 0.96 s, two squares, and a whole picture of DIV2K (2040x1356)."""

SRDIFF_SMOKE = (Case(16, 16, 4), Case(24, 16, 4))
"""As `SMOKE`, for a sampler of a hundred steps."""

MATRICES = {
    "documented": DOCUMENTED,
    "smoke": SMOKE,
    "osediff-smoke": OSEDIFF_SMOKE,
    "srdiff": SRDIFF,
    "srdiff-smoke": SRDIFF_SMOKE,
}


def parse_cases(texts: Iterable[str]) -> tuple[Case, ...]:
    """Expand names, comma-separated lists and matrices, in order, each case once.

    Raises:
        UsageError: A name is wrong, or none is given.
    """
    found: dict[Case, None] = {}
    for text in texts:
        for name in filter(None, (part.strip() for part in text.split(","))):
            for case in MATRICES.get(name) or (Case.parse(name),):
                found[case] = None
    if not found:
        raise UsageError("--cases: no case is named; give documented, smoke or WIDTHxHEIGHTxSCALE")
    return tuple(found)
