"""One input becomes pictures: what a process does that holds a pipeline, wherever it runs."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipelines.contract import PipelineError
from srbench.errors import UsageError
from srbench.images import encode_image, image_profile
from srbench.painting import Painter, PictureTooLargeError
from srbench.upscaling import read_input
from srbench.upscaling_journal import file_sha256

PICTURE_ERRORS = (UsageError, PipelineError, PictureTooLargeError)
"""Of one picture; all others end the batch."""


@dataclass(frozen=True, slots=True)
class Work:
    """Pictures that have to be made of one input.

    Attributes:
        source: The input.
        targets: Where they go; each suffix decides a format.
        seeds: Of their noise, as many.
        input_sha256: Of the input where that is known.
    """

    source: Path
    targets: tuple[Path, ...]
    seeds: tuple[int, ...]
    input_sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """The next picture of a work.

    Attributes:
        content: Of its file.
        input_sha256: What it was made of.
        height: Of the input.
        width: Of the input.
        pixels: Of the picture.
        seconds: Since the picture before, or since the work was begun.
    """

    content: bytes
    input_sha256: str
    height: int
    width: int
    pixels: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Refused:
    """No more pictures of a work.

    Attributes:
        reason: In one line, without the name of the input.
        bad_input: It failed because of what the user gave, not for want of memory.
        height: Of the input, None where it was not read.
        width: Of the input.
        seconds: Since the picture before.
    """

    reason: str
    bad_input: bool
    height: int | None = None
    width: int | None = None
    seconds: float = 0.0


Reply = Made | Refused


def refused(source: Path, error: Exception) -> Refused:
    """One of `PICTURE_ERRORS`, as a reply."""
    reason = " ".join(str(error).removeprefix(f"{source}: ").split())
    return Refused(reason, not isinstance(error, PictureTooLargeError))


def make_pictures(painter: Painter, work: Work) -> Iterator[Reply]:
    """Read an input, and make one picture of it after another.

    Raises:
        PipelineError: The weights are wrong.
        InfrastructureError: They do not fit into memory.
    """
    start = time.monotonic()
    try:
        digest = work.input_sha256 or file_sha256(work.source)
        image = read_input(work.source)
        profile = image_profile(work.source, work.targets[0])
    except PICTURE_ERRORS as error:
        yield refused(work.source, error)
        return
    height, width = image.shape[:2]
    painter.load()
    failed: Refused | None = None
    try:
        pictures = painter.paint(work.source, image, work.seeds)
        for target, picture in zip(work.targets, pictures, strict=True):
            content = encode_image(target, picture, profile)
            pixels = picture.shape[0] * picture.shape[1]
            seconds = time.monotonic() - start
            yield Made(content, digest, height, width, pixels, seconds)
            start = time.monotonic()
    except PICTURE_ERRORS as error:
        failed = refused(work.source, error)
    if failed is not None:
        painter.recover()  # here, where the error holds on to nothing any more
        yield replace(failed, height=height, width=width, seconds=time.monotonic() - start)
