"""Leaks of evaluation pictures into a calibration set are found, and nothing else is."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data as photographs

from pipelines.contract import PipelineError
from pipelines.passionsr.calibration.leakage import Evaluation, check_leaks, find_leaks
from pipelines.passionsr.calibration.set import CalibrationSet, SetSettings, choose_crops
from pipelines.pictures import write_png

ASTRONAUT: NDArray[np.uint8] = photographs.astronaut()[20:320, 60:360]
CAT: NDArray[np.uint8] = photographs.chelsea()[:256, 60:360]
COFFEE: NDArray[np.uint8] = photographs.coffee()[:300, 100:500]
ROCKET: NDArray[np.uint8] = photographs.rocket()[:300, 200:600]


@pytest.fixture(scope="module")
def calibration(tmp_path_factory: pytest.TempPathFactory) -> CalibrationSet:
    folder = tmp_path_factory.mktemp("photographs")
    for name, pixels in (("astronaut", ASTRONAUT), ("cat", CAT)):
        write_png(folder / f"{name}.png", pixels)
    paths = [folder / "astronaut.png", folder / "cat.png"]
    return choose_crops(paths, SetSettings(images=4, side=128))


def found(calibration: CalibrationSet, folder: Path) -> set[tuple[str, str]]:
    leaks = find_leaks(calibration, Evaluation.read([folder]))
    return {(leak.photograph.name, leak.evaluation.name) for leak in leaks}


@pytest.mark.parametrize("side", [75, 400])
def test_resized_copy(calibration: CalibrationSet, tmp_path: Path, side: int) -> None:
    Image.fromarray(ASTRONAUT).resize((side, side)).save(tmp_path / "copy.png")
    assert found(calibration, tmp_path) == {("astronaut.png", "copy.png")}


@pytest.mark.parametrize("quality", [20, 90])
def test_jpeg_copy(calibration: CalibrationSet, tmp_path: Path, quality: int) -> None:
    Image.fromarray(CAT).save(tmp_path / "copy.jpg", quality=quality)
    assert found(calibration, tmp_path) == {("cat.png", "copy.jpg")}


def test_resized_copy_of_a_crop(calibration: CalibrationSet, tmp_path: Path) -> None:
    crop = Image.fromarray(calibration.pair(0).hr)
    crop.resize((48, 48)).save(tmp_path / "crop.jpg", quality=80)
    assert found(calibration, tmp_path) == {(calibration.crops[0].photograph.name, "crop.jpg")}


def test_copies_in_other_forms(calibration: CalibrationSet, tmp_path: Path) -> None:
    Image.fromarray(ASTRONAUT).convert("L").save(tmp_path / "grey.png")
    write_png(tmp_path / "small.png", CAT[41:65, 77:103])
    deep = ASTRONAUT[100:180, 100:200, ::-1].astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "deep.png"), deep)
    assert found(calibration, tmp_path) == {
        ("astronaut.png", "grey.png"),
        ("cat.png", "small.png"),
        ("astronaut.png", "deep.png"),
    }


@pytest.mark.parametrize("place", [(0, 0), (171, 53)])
def test_shared_region_at_any_offset(
    calibration: CalibrationSet, tmp_path: Path, place: tuple[int, int]
) -> None:
    top, left = place
    other = COFFEE.copy()
    other[top : top + 64, left : left + 64] = CAT[33:97, 119:183]
    write_png(tmp_path / "mixed.png", other)
    assert found(calibration, tmp_path) == {("cat.png", "mixed.png")}


def test_region_that_differs_in_every_block_is_none(
    calibration: CalibrationSet, tmp_path: Path
) -> None:
    other = COFFEE.copy()
    region = CAT[33:97, 119:183].copy()
    region[::8, ::8, 0] ^= 1
    other[37:101, 101:165] = region
    write_png(tmp_path / "mixed.png", other)
    assert found(calibration, tmp_path) == set()


def test_unrelated_pictures_are_no_leaks(calibration: CalibrationSet, tmp_path: Path) -> None:
    write_png(tmp_path / "coffee.png", COFFEE)
    write_png(tmp_path / "rocket.png", ROCKET)
    write_png(tmp_path / "tiny.png", COFFEE[:12, :12])
    write_png(tmp_path / "black.png", np.zeros((90, 120, 3), np.uint8))
    assert found(calibration, tmp_path) == set()


def sky(side: int, low: int, high: int) -> NDArray[np.uint8]:
    """Clear: brighter towards the horizon, and without noise."""
    grey = low + (high - low) * np.linspace(0, 1, side)[:, None, None] ** 1.5
    return np.broadcast_to(grey, (side, side, 3)).astype(np.uint8)


def test_skies_and_borders_are_alike_in_all_pictures(tmp_path: Path) -> None:
    for name, pixels in (("astronaut", ASTRONAUT), ("cat", CAT)):
        pixels = pixels.copy()
        pixels[:80] = sky(80, 200, 255)[:, :1]
        pixels[-40:] = 0
        write_png(tmp_path / f"{name}.png", pixels)
    write_png(tmp_path / "clear.png", sky(128, 100, 200))
    write_png(tmp_path / "other.png", sky(200, 90, 220))
    photos = [tmp_path / "cat.png", tmp_path / "clear.png"]
    ours = choose_crops(photos, SetSettings(images=4, side=64))
    leaks = find_leaks(ours, Evaluation([tmp_path / "astronaut.png", tmp_path / "other.png"]))
    assert leaks == []


def test_leak_is_an_error_that_names_both_unless_allowed(
    calibration: CalibrationSet, tmp_path: Path
) -> None:
    write_png(tmp_path / "again.png", CAT)
    said: list[str] = []
    with pytest.raises(PipelineError, match=r"cat\.png .*again\.png.*--allow-leaks"):
        check_leaks(calibration, [tmp_path], allow=False, note=said.append)
    check_leaks(calibration, [tmp_path], allow=True, note=said.append)
    assert len(said) == 1
    assert "again.png" in said[0]


def test_evaluation_without_pictures(tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match="no such folder"):
        Evaluation.read([tmp_path / "missing"])
    with pytest.raises(PipelineError, match="no pictures"):
        Evaluation.read([tmp_path])
