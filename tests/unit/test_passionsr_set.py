"""Calibration sets: crops of photographs, degraded, the same for the same seed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage import data as photographs

from pipelines.contract import PipelineError
from pipelines.passionsr.calibration.schedule import Degrading
from pipelines.passionsr.calibration.set import (
    SetSettings,
    choose_crops,
    find_photographs,
    installed_photographs,
)
from pipelines.pictures import read_picture, write_png

SMALL = SetSettings(images=6, side=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    write_png(folder / "a.png", photographs.astronaut()[:200, :150])
    write_png(folder / "b.png", photographs.chelsea()[:130, :300])
    return folder


def test_pairs_are_aligned_crops_of_the_photographs(folder: Path) -> None:
    chosen = choose_crops(find_photographs(folder), SMALL)
    for number, crop in enumerate(chosen.crops):
        pair = chosen.pair(number)
        picture = read_picture(crop.photograph)
        assert np.array_equal(
            pair.hr, picture[crop.top : crop.top + 64, crop.left : crop.left + 64]
        )
        assert pair.lr.shape == (16, 16, 3)
        reduced = np.asarray(Image.fromarray(pair.hr).resize((16, 16), Image.Resampling.BOX))
        assert np.corrcoef(reduced.ravel(), pair.lr.ravel())[0, 1] > 0.6


def test_crops_do_not_overlap_and_photographs_take_turns(folder: Path) -> None:
    chosen = choose_crops(find_photographs(folder), replace(SMALL, images=14))
    names = [crop.photograph.name for crop in chosen.crops]
    assert sorted(names[:2]) == sorted(names[2:4]) == ["a.png", "b.png"]
    for index, a in enumerate(chosen.crops):
        for b in chosen.crops[:index]:
            apart = max(abs(a.top - b.top), abs(a.left - b.left))
            assert a.photograph != b.photograph or apart >= 64
    assert len(set(chosen.crops)) == 14


def test_same_seed_same_set_wherever_the_files_are(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(folder, copy)
    first = choose_crops(find_photographs(folder), SMALL)
    again = choose_crops(find_photographs(copy), SMALL)
    assert first.fingerprint() == again.fingerprint()
    for number in range(len(first)):
        assert np.array_equal(first.pair(number).lr, again.pair(number).lr)


@pytest.mark.parametrize("change", [{"seed": 1}, {"degrading": Degrading.PLAIN}, {"images": 5}])
def test_fingerprint_tells_other_sets_apart(folder: Path, change: dict[str, int]) -> None:
    paths = find_photographs(folder)
    other = choose_crops(paths, replace(SMALL, **change))
    assert other.fingerprint() != choose_crops(paths, SMALL).fingerprint()


def test_fingerprint_follows_the_pixels(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    pixels = read_picture(copy / "a.png")
    pixels[0, 0, 0] ^= 1
    write_png(copy / "a.png", pixels)
    fingerprints = {choose_crops(find_photographs(f), SMALL).fingerprint() for f in (folder, copy)}
    assert len(fingerprints) == 2


def test_plain_is_bicubic_reduction(folder: Path) -> None:
    chosen = choose_crops(find_photographs(folder), replace(SMALL, degrading=Degrading.PLAIN))
    pair = chosen.pair(0)
    expected = Image.fromarray(pair.hr).resize((16, 16), Image.Resampling.BICUBIC)
    assert np.array_equal(pair.lr, np.asarray(expected))


def test_small_photograph_is_named_with_its_size(folder: Path) -> None:
    paths = find_photographs(folder)
    with pytest.raises(PipelineError, match=r"a\.png: 150x200 px, smaller than .* 160x160"):
        choose_crops(paths, SetSettings(images=4, side=160))


def test_too_few_photographs_say_how_many_crops_fit(folder: Path) -> None:
    paths = find_photographs(folder)
    with pytest.raises(PipelineError, match=r"2 photographs have room for 14 crops .* 15 are"):
        choose_crops(paths, replace(SMALL, images=15))


@pytest.mark.parametrize(
    ("change", "said"),
    [({"images": 3}, "--images 3"), ({"side": 72}, "multiple of 32"), ({"side": 0}, "--side 0")],
)
def test_settings_that_make_no_set(change: dict[str, int], said: str) -> None:
    with pytest.raises(PipelineError, match=said):
        replace(SMALL, **change)


def test_folders_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no such folder"):
        find_photographs(tmp_path / "missing")
    (tmp_path / "note.txt").write_text("x")
    with pytest.raises(PipelineError, match="none of 1 files is a picture"):
        find_photographs(tmp_path)


def test_scikit_image_has_photographs() -> None:
    assert {path.name for path in installed_photographs()} >= {"astronaut.png", "coffee.png"}
