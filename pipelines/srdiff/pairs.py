"""Pairs of HR and LR pictures, found in the layouts that people have."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipelines.contract import PipelineError
from pipelines.matlab_resize import imresize
from pipelines.pictures import Note, list_pictures, picture_size, read_picture
from pipelines.srdiff.windows import Rgb, crop_to_multiple, hr_multiple

_NAMED = 5
"""Files that a line names before it only counts."""
_DIV2K = {"train": "DIV2K_train", "val": "DIV2K_valid"}


@dataclass(frozen=True, slots=True, order=True)
class Pair:
    """An HR picture and its LR.

    Attributes:
        name: Of the HR file.
        hr: That file.
        lr: The LR file; None where the LR is reduced from the HR picture.
        scale: Of the two.
    """

    name: str
    hr: Path
    lr: Path | None
    scale: int


def open_pairs(root: Path, split: str, scale: int, note: Note) -> list[Pair]:
    """Find the pairs of a data set, sorted by name, and check their sizes by their headers.

    Layouts, the first that is there: `<split>/X1` with `<split>/X<scale>` (what `prepare` writes),
    `X1` with `X<scale>`, DIV2K's `DIV2K_{train,valid}_HR` with
    `DIV2K_{train,valid}_LR_bicubic/X<scale>/0801x4.png` (without the latter the LR is reduced from
    the HR), `<split>` with HR pictures, and the root itself with HR pictures.

    Args:
        root: Folder of the data set.
        split: `train` or `val`.
        scale: Upscaling factor.
        note: Told which files are left out, and that pictures are cropped.

    Raises:
        PipelineError: There is none of these, nothing of it can be used, or sizes do not match.
    """
    pairs = _layout(root, split, scale, note)
    usable, unreadable, odd = [], [], 0
    for pair in pairs:
        try:
            height, width = _checked_size(pair)
        except _UnreadableError as error:
            unreadable.append(str(error))
            continue
        usable.append(pair)
        odd += bool(height % hr_multiple(scale) or width % hr_multiple(scale))
    _say_skipped(unreadable, len(pairs), note)
    if not usable:
        raise PipelineError(f"{root}: no {split} picture can be used")
    if odd:
        note(
            f"{root}: {odd} of {len(usable)} {split} pictures are cropped to sides that are "
            f"multiples of {hr_multiple(scale)}"
        )
    return usable


def load_pair(pair: Pair) -> tuple[Rgb, Rgb]:
    """Read a pair as the published loader does.

    Returns:
        HR [H, W, 3] uint8 with sides cropped to multiples of `hr_multiple`, and LR
        [H / scale, W / scale, 3] uint8.

    Raises:
        PipelineError: A file cannot be decoded, is too small, or the sizes do not match.
    """
    hr = crop_to_multiple(read_picture(pair.hr), hr_multiple(pair.scale))
    height, width = hr.shape[:2]
    if min(height, width) < hr_multiple(pair.scale):
        raise PipelineError(f"{pair.hr}: sides must be at least {hr_multiple(pair.scale)}")
    if pair.lr is None:
        return hr, imresize(hr, Fraction(1, pair.scale))
    lr = read_picture(pair.lr)
    if lr.shape[0] < height // pair.scale or lr.shape[1] < width // pair.scale:
        raise PipelineError(f"{pair.lr}: too small to be {pair.hr} reduced by {pair.scale}")
    return hr, np.ascontiguousarray(lr[: height // pair.scale, : width // pair.scale])


def iterate_pairs(pairs: Iterable[Pair], note: Note) -> Iterator[tuple[Pair, Rgb, Rgb]]:
    """Decode pairs on all cores, in order; what cannot be decoded is named, skipped and counted.

    Yields:
        The pair, and HR and LR as `load_pair`.

    Raises:
        PipelineError: None of them can be decoded.
    """
    skipped: list[str] = []
    good = 0
    for pair, loaded in _decoded(pairs):
        try:
            hr, lr = loaded.result()
        except PipelineError as error:
            skipped.append(str(error))
            continue
        good += 1
        yield pair, hr, lr
    _say_skipped(skipped, good + len(skipped), note)
    if skipped and not good:
        raise PipelineError(f"no picture can be used, first {skipped[0]}")


def some_names(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


class _UnreadableError(PipelineError):
    """A file whose header cannot be read."""


def _decoded(pairs: Iterable[Pair]) -> Iterator[tuple[Pair, Future[tuple[Rgb, Rgb]]]]:
    """Pairs and their pixels, never more than a few ahead of who takes them."""
    workers = len(os.sched_getaffinity(0))
    ahead: deque[tuple[Pair, Future[tuple[Rgb, Rgb]]]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for pair in pairs:
            ahead.append((pair, pool.submit(load_pair, pair)))
            if len(ahead) > 2 * workers:
                yield ahead.popleft()
        yield from ahead


def _say_skipped(reasons: list[str], total: int, note: Note) -> None:
    for reason in reasons:
        note(f"warning: {reason}; skipped")
    if reasons:
        note(f"warning: {len(reasons)} of {total} pictures skipped")


def _layout(root: Path, split: str, scale: int, note: Note) -> list[Pair]:
    if split not in _DIV2K:
        raise PipelineError(f"split '{split}': expected train or val")
    if not root.is_dir():
        raise PipelineError(f"{root}: no such folder")
    for folder in (root / split, root):
        if (folder / "X1").is_dir():
            return _matched(folder / "X1", folder / f"X{scale}", "", scale, note)
    name = _DIV2K[split]
    if (root / f"{name}_HR").is_dir():
        reduced = root / f"{name}_LR_bicubic" / f"X{scale}"
        if reduced.is_dir():
            return _matched(root / f"{name}_HR", reduced, f"x{scale}", scale, note)
        return _reduced_from(root / f"{name}_HR", scale)
    if list_pictures(root / split):
        return _reduced_from(root / split, scale)
    if list_pictures(root):
        note(f"{root}: no {split} folder in it, so all its pictures are used for {split}")
        return _reduced_from(root, scale)
    raise PipelineError(
        f"{root}: no {split} pictures; expected {split}/X1 with {split}/X{scale} (what "
        f"pipelines.srdiff.prepare writes), {name}_HR, or a folder of photographs"
    )


def _reduced_from(folder: Path, scale: int) -> list[Pair]:
    return [Pair(path.name, path, None, scale) for path in list_pictures(folder)]


def _matched(hr: Path, lr: Path, suffix: str, scale: int, note: Note) -> list[Pair]:
    """Files of both folders with the same name, LR's stem followed by `suffix`."""
    if not lr.is_dir():
        others = sorted(p.name for p in lr.parent.glob("X*") if p.name != "X1" and p.is_dir())
        found = f" (found {', '.join(others)})" if others else ""
        raise PipelineError(f"{lr}: no such folder{found}; prepare the data for x{scale}")
    high = {path.stem: path for path in list_pictures(hr)}
    low = {path.stem.removesuffix(suffix): path for path in list_pictures(lr)}
    alone = [str(high[stem]) for stem in sorted(high.keys() - low.keys())]
    alone += [str(low[stem]) for stem in sorted(low.keys() - high.keys())]
    if alone:
        note(f"warning: {len(alone)} pictures without a partner left out: {some_names(alone)}")
    both = sorted(high.keys() & low.keys())
    if not both:
        raise PipelineError(f"{hr} and {lr}: no two pictures of the same name")
    return [Pair(high[stem].name, high[stem], low[stem], scale) for stem in both]


def _checked_size(pair: Pair) -> tuple[int, int]:
    try:
        height, width = picture_size(pair.hr)
        reduced = picture_size(pair.lr) if pair.lr else None
    except PipelineError as error:
        raise _UnreadableError(str(error)) from error
    if reduced is None:
        return height, width
    for low, high in zip(reduced, (height, width), strict=True):
        if low not in (high // pair.scale, -(-high // pair.scale)):
            raise PipelineError(
                f"{pair.lr}: {reduced[1]}x{reduced[0]} is not {pair.hr.name} ({width}x{height}) "
                f"reduced by {pair.scale}; prepare the pair again, or give the scale it was made "
                "for"
            )
    return height, width
