"""Which photographs a data set consists of, and where they lie under its root."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from pipelines.contract import PipelineError
from pipelines.pictures import SUFFIXES, Note, list_pictures

_PNG = (".png",)


class Dataset(StrEnum):
    """Known data sets; `folder` is any folder of photographs."""

    DIV2K = "div2k"
    FLICKR2K = "flickr2k"
    DF2K = "df2k"
    SET5 = "set5"
    SET14 = "set14"
    URBAN100 = "urban100"
    BSD100 = "bsd100"
    FOLDER = "folder"


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """One photograph.

    Attributes:
        split: `train` or `val`.
        file: Path below the root, with forward slashes.
    """

    split: str
    file: str


_FOLDERS: dict[Dataset, tuple[tuple[str, str, str], ...]] = {
    Dataset.DIV2K: (
        ("train", "DIV2K", "DIV2K_train_HR"),
        ("val", "DIV2K", "DIV2K_valid_HR"),
    ),
    Dataset.FLICKR2K: (("train", "Flickr2K", "Flickr2K_HR"),),
    Dataset.DF2K: (
        ("train", "Flickr2K", "Flickr2K_HR"),
        ("train", "DIV2K", "DIV2K_train_HR"),
        ("val", "DIV2K", "DIV2K_valid_HR"),
    ),
}
"""Split, optional folder of the data set, folder; in the authors' order."""

_BENCHMARKS: dict[Dataset, tuple[str, ...]] = {
    Dataset.SET5: ("Set5",),
    Dataset.SET14: ("Set14",),
    Dataset.URBAN100: ("Urban100",),
    Dataset.BSD100: ("BSD100", "B100", "BSDS100"),
}


def find_sources(
    root: Path, dataset: Dataset, scale: int, *, val_every: int, note: Note
) -> list[Source]:
    """Photographs of a data set in the order in which they are numbered.

    Args:
        root: What holds the data set's folders; for `folder` the photographs themselves.
        dataset: Which one.
        scale: Chooses among benchmark folders made for several.
        val_every: Of `folder`, every so many photographs one is for validation; 0 for none.
        note: Told which part of the data set is not there.

    Raises:
        PipelineError: The root or everything of the data set is missing.
    """
    if not root.is_dir():
        raise PipelineError(f"{root}: no such folder (--root)")
    if dataset is Dataset.FOLDER:
        return _folder(root, val_every)
    if dataset in _BENCHMARKS:
        return _benchmark(root, dataset, scale)
    return _published(root, dataset, note)


def _sources(root: Path, split: str, files: Iterable[Path]) -> list[Source]:
    return [Source(split, file.relative_to(root).as_posix()) for file in files]


def _folder(root: Path, val_every: int) -> list[Source]:
    files = list_pictures(root)
    if not files:
        raise PipelineError(f"{root}: no picture in it (looked for {', '.join(SUFFIXES)})")
    held_out = set(files[val_every - 1 :: val_every]) if val_every else set()
    train = _sources(root, "train", (file for file in files if file not in held_out))
    return train + _sources(root, "val", sorted(held_out))


def _benchmark(root: Path, dataset: Dataset, scale: int) -> list[Source]:
    for name in _BENCHMARKS[dataset]:
        folder = root / name
        made = [p for p in list_pictures(folder / f"image_SRF_{scale}") if p.stem.endswith("_HR")]
        files = list_pictures(folder / "HR") or made or list_pictures(folder)
        if files:
            return _sources(root, "val", files)
    name = _BENCHMARKS[dataset][0]
    raise PipelineError(
        f"{root}: {dataset} not found; expected pictures in {name}/HR, "
        f"{name}/image_SRF_{scale}/*_HR.png or {name}"
    )


def _published(root: Path, dataset: Dataset, note: Note) -> list[Source]:
    found: list[Source] = []
    missing = []
    for split, group, name in _FOLDERS[dataset]:
        files = list_pictures(root / name, _PNG) or list_pictures(root / group / name, _PNG)
        if not files:
            missing.append(name)
        found += _sources(root, split, files)
    if not found:
        raise PipelineError(f"{root}: {dataset} not found; expected PNG files in {missing[0]}")
    for name in missing:
        note(f"{root / name}: no PNG files there; that part of {dataset} is left out")
    return found
