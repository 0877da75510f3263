"""Which pictures are held against which: plain folders, samples, and the layouts of DIV2K.

Only names are looked at here. Pictures pair by stem, and `0801x4`, as DIV2K calls its inputs, pairs
with `0801`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from srbench.errors import UsageError
from srbench.images import SUFFIXES, list_images

_SHOWN = 3
_SAMPLE = re.compile(r"sample-\d+")
_OF_SCALE = re.compile(r"x[2-8]$")
_LR_FOLDER = re.compile(r"X([2-8])")
_DIV2K_HR = "DIV2K_valid_HR"
_DIV2K_LR = "DIV2K_valid_LR_bicubic"


@dataclass(frozen=True, slots=True)
class Item:
    """One picture to judge.

    Attributes:
        samples: The pictures, one a sample; a plain folder has one.
        hr: Its reference.
        lr: The input of the pipeline; None where no folder of them is known.
    """

    samples: tuple[Path, ...]
    hr: Path
    lr: Path | None

    @property
    def files(self) -> tuple[Path, ...]:
        """All of them."""
        return (*self.samples, self.hr, *([] if self.lr is None else [self.lr]))


def find_items(sr_dir: Path, hr_dir: Path, lr_dir: Path | None = None) -> list[Item]:
    """Pair the pictures of `sr_dir` with references and, where their folder is named, inputs.

    Args:
        sr_dir: Pictures, or one folder `sample-0000`, `sample-0001`, … a sample.
        hr_dir: Pictures; a prepared `val` (`X1`, `X4`); or a root of DIV2K (`DIV2K_valid_HR`).
        lr_dir: Inputs of the pipeline.

    Raises:
        UsageError: A folder is missing or empty, a picture lacks its partner, two share a stem, or
            samples differ in their names.
    """
    first, *others = _sample_dirs(sr_dir)
    pairs = pair_by_stem(first, _references(hr_dir))
    inputs = {} if lr_dir is None else dict(pair_by_stem(first, lr_dir))
    names = [path.name for path, _ in pairs]
    for folder in others:
        _same_names(folder, first, names)
    return [
        Item(tuple(folder / path.name for folder in (first, *others)), hr, inputs.get(path))
        for path, hr in pairs
    ]


def find_inputs(hr_dir: Path, scale: int | None) -> Path | None:
    """Folder of the inputs in a layout that has one: `X4`, or `DIV2K_valid_LR_bicubic/X4`.

    Args:
        hr_dir: As for `find_items`.
        scale: Chooses among several; without it a single one is taken.
    """
    parent = hr_dir if _is_prepared(hr_dir) else hr_dir / _DIV2K_LR
    paths = sorted(parent.iterdir()) if parent.is_dir() else []
    by_scale = {
        int(match[1]): path
        for path in paths
        if path.is_dir() and (match := _LR_FOLDER.fullmatch(path.name))
    }
    if scale is None and len(by_scale) == 1:
        (scale,) = by_scale
    return None if scale is None else by_scale.get(scale)


def pair_by_stem(sr_dir: Path, other_dir: Path) -> list[tuple[Path, Path]]:
    """Pairs of files with the same stem, in the order of their names.

    Raises:
        UsageError: A picture without a partner, or two with the same stem.
    """
    ours, theirs = _by_stem(sr_dir), _by_stem(other_dir)
    shared = ours.keys() & theirs.keys()
    ours = _without_scale(ours, shared, sr_dir)
    theirs = _without_scale(theirs, shared, other_dir)
    for have, lack, folder in ((ours, theirs, other_dir), (theirs, ours, sr_dir)):
        alone = [path.name for stem, path in have.items() if stem not in lack]
        if alone:
            raise UsageError(f"{folder}: no picture for {some_of(alone)}")
    return [(path, theirs[stem]) for stem, path in ours.items()]


def _sample_dirs(sr_dir: Path) -> list[Path]:
    if not sr_dir.is_dir():
        raise UsageError(f"{sr_dir}: no such folder")
    entries = sorted(sr_dir.iterdir())
    found = [path for path in entries if path.is_dir() and _SAMPLE.fullmatch(path.name)]
    if not found:
        return [sr_dir]
    beside = [path.name for path in entries if path.is_file() and path.suffix.lower() in SUFFIXES]
    if beside:
        raise UsageError(f"{sr_dir}: pictures ({some_of(beside)}) beside folders of samples")
    return found


def _same_names(folder: Path, first: Path, names: list[str]) -> None:
    have = [path.name for path in list_images(folder)]
    for there, wanted, lacking in ((have, names, folder), (names, have, first)):
        if alone := [name for name in wanted if name not in set(there)]:
            raise UsageError(f"{lacking}: no {some_of(alone)}; every sample has the same pictures")


def _references(hr_dir: Path) -> Path:
    if _is_prepared(hr_dir):
        return hr_dir / "X1"
    published = hr_dir / _DIV2K_HR
    return published if published.is_dir() else hr_dir


def _is_prepared(hr_dir: Path) -> bool:
    return (hr_dir / "X1").is_dir()


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in list_images(folder):
        _enter(found, path.stem, path, folder)
    return found


def _without_scale(paths: dict[str, Path], shared: set[str], folder: Path) -> dict[str, Path]:
    """The same by stems without `x4`, where the whole stem has no partner."""
    found: dict[str, Path] = {}
    for stem, path in paths.items():
        _enter(found, stem if stem in shared else _OF_SCALE.sub("", stem), path, folder)
    return found


def _enter(found: dict[str, Path], stem: str, path: Path, folder: Path) -> None:
    if stem in found:
        raise UsageError(
            f"{folder}: {found[stem].name} and {path.name} have the same stem; "
            "pictures are paired by it"
        )
    found[stem] = path


def some_of(names: list[str]) -> str:
    """The first few names and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
