"""Training photographs: which are found, and which crops are cut of them."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from torch.utils.data import DataLoader

from pipelines.contract import PipelineError
from pipelines.pictures import read_picture, write_png
from pipelines.s3diff.train.photos import (
    Photo,
    PhotoDataset,
    Root,
    Rule,
    Sample,
    find_photos,
    fingerprint,
)

ANY = Rule(min_area_px=0, min_bytes=0)


def save(path: Path, picture: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.ascontiguousarray(picture))
    return path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four photographs, two of them in folders, and a text."""
    root = tmp_path_factory.mktemp("photographs") / "photographs"
    save(root / "b.png", data.astronaut()[:150, :200])
    save(root / "deep" / "er" / "a.png", data.coffee()[:130, :90])
    save(root / "deep" / "c.png", data.chelsea()[:140, :210])
    Image.fromarray(data.rocket()[100:250, 200:400]).save(root / "D.JPG", quality=95)
    (root / "notes.txt").write_text("not a picture")
    return root


@pytest.fixture(scope="module")
def photos(folder: Path) -> list[Photo]:
    return find_photos([Root(folder)], ANY, note=pytest.fail)


def dataset(photos: list[Photo], crop: int = 64, seed: int = 3) -> PhotoDataset:
    return PhotoDataset(photos, crop, seed=seed, note=pytest.fail)


def equal(a: Sample, b: Sample) -> bool:
    return torch.equal(a.hr, b.hr) and a[1:] == b[1:]


def pixels_of(sample: Sample) -> NDArray[np.uint8]:
    return (sample.hr * 255).round().byte().permute(1, 2, 0).numpy()


def is_part(crop: NDArray[np.uint8], picture: NDArray[np.uint8]) -> bool:
    windows = np.lib.stride_tricks.sliding_window_view(picture[..., 0], crop.shape[:2])
    return bool((windows[:, :, ::9, ::9] == crop[::9, ::9, 0]).all(axis=(2, 3)).any())


# Finding


def test_photographs_of_all_folders_are_found_in_order(folder: Path, photos: list[Photo]) -> None:
    names = ["D.JPG", "b.png", "deep/c.png", "deep/er/a.png"]
    assert [photo.name for photo in photos] == [f"photographs/{name}" for name in names]
    assert [photo.path for photo in photos] == [folder / name for name in names]


def test_roots_follow_one_another_each_with_its_limit(folder: Path) -> None:
    found = find_photos([Root(folder / "deep"), Root(folder, 1)], ANY, pytest.fail)
    assert [photo.name for photo in found] == ["deep/c.png", "deep/er/a.png", "photographs/D.JPG"]


def test_small_photographs_are_left_out(folder: Path) -> None:
    notes: list[str] = []
    found = find_photos([Root(folder)], Rule(min_area_px=150 * 200, min_bytes=0), notes.append)
    assert [photo.path.name for photo in found] == ["D.JPG", "b.png"]
    assert len(notes) == 1
    assert "2 of 4 pictures left out, with fewer than 30000 pixels" in notes[0]
    smallest = min(photo.file_bytes for photo in found)
    found = find_photos([Root(folder)], Rule(0, smallest + 1), notes.append)
    assert all(photo.path.stat().st_size > smallest for photo in found)


def test_default_rule_is_the_published_one() -> None:
    assert Rule() == Rule(min_area_px=384 * 384, min_bytes=100 * 1024)


def test_fingerprint_tells_other_photographs(folder: Path, photos: list[Photo]) -> None:
    assert fingerprint(photos) == fingerprint(find_photos([Root(folder)], ANY, pytest.fail))
    assert fingerprint(photos) != fingerprint(photos[1:])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (None, "no such folder"),
        ([], "empty, expected a picture"),
        (["a.txt", "b.md"], "none of 2 files is a picture"),
        (["a.png"], "1 of 1 are broken"),
    ],
)
def test_folders_without_photographs_are_named(
    tmp_path: Path, files: list[str] | None, message: str
) -> None:
    root = tmp_path / "set"
    if files is not None:
        root.mkdir()
        for name in files:
            (root / name).write_text("no picture at all")
    with pytest.raises(PipelineError, match=message) as caught:
        find_photos([Root(root)], ANY, note=lambda line: None)
    assert str(root) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_too_small_photographs_alone_are_an_error_that_says_the_rule(folder: Path) -> None:
    with pytest.raises(PipelineError, match="147456 pixels or 102400 bytes") as caught:
        find_photos([Root(folder)], Rule(), note=lambda line: None)
    assert "4 have fewer" in str(caught.value)


# Cropping


def test_an_item_follows_from_seed_and_number(photos: list[Photo]) -> None:
    one, other = dataset(photos), dataset(photos)
    numbers = [0, 1, 5, 1000, 10**9]
    backwards = [other[number] for number in reversed(numbers)][::-1]
    for number, sample in zip(numbers, backwards, strict=True):
        assert equal(one[number], sample)
    assert not equal(one[0], dataset(photos, seed=4)[0])
    assert len({one[number].seed for number in range(50)}) == 50
    again = pickle.loads(pickle.dumps(one))  # as worker processes get it
    assert equal(one[7], again[7])


def test_what_fits_into_no_cache_is_the_same(photos: list[Photo]) -> None:
    uncached = PhotoDataset(photos, 64, seed=3, note=pytest.fail, cache_bytes=0)
    cached = dataset(photos)
    for number in (2, 9, 2):
        assert equal(uncached[number], cached[number])


def test_each_round_sees_every_photograph_once(photos: list[Photo]) -> None:
    crops = dataset(photos)
    assert len(crops) == 4
    orders = [[crops[4 * epoch + i].name for i in range(4)] for epoch in range(6)]
    assert all(sorted(order) == sorted(photo.name for photo in photos) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def test_crops_are_parts_of_the_photograph_or_of_its_mirror_image(photos: list[Photo]) -> None:
    crops = dataset(photos)
    pictures = {photo.name: read_picture(photo.path) for photo in photos}
    mirrored, places = 0, set()
    for number in range(40):
        sample = crops[number]
        assert sample.hr.shape == (3, 64, 64)
        assert sample.hr.dtype == torch.float32
        picture = pictures[sample.name]
        straight = is_part(pixels_of(sample), picture)
        assert straight or is_part(pixels_of(sample), picture[:, ::-1])
        mirrored += not straight
        places.add((sample.name, pixels_of(sample).tobytes()))
    assert 8 < mirrored < 32
    assert len(places) == 40


def test_every_place_can_be_drawn(tmp_path: Path) -> None:
    ramp = np.arange(3 * 4, dtype=np.uint8).reshape(3, 4)[..., None].repeat(3, axis=2)
    save(tmp_path / "ramp.png", ramp)
    crops = dataset(find_photos([Root(tmp_path)], ANY, pytest.fail), crop=2)
    corners = {int(pixels_of(crops[number]).min()) for number in range(200)}
    assert corners == {0, 1, 2, 4, 5, 6}


def test_smaller_photographs_are_reflected_at_the_bottom_and_right(photos: list[Photo]) -> None:
    [small] = [photo for photo in photos if photo.name.endswith("er/a.png")]
    sample = dataset([small], crop=160)[0]
    picture = read_picture(small.path)
    crop = pixels_of(sample)
    if not np.array_equal(crop[:130, :90], picture):
        picture = picture[:, ::-1]
    expected = np.pad(picture, ((0, 30), (0, 70), (0, 0)), mode="reflect")
    assert np.array_equal(crop, expected)


def test_the_loader_collates_crops(photos: list[Photo]) -> None:
    batch = next(iter(DataLoader(dataset(photos), batch_size=3, generator=torch.Generator())))
    assert isinstance(batch, Sample)
    assert batch.hr.shape == (3, 3, 64, 64)
    assert len(batch.name) == 3
    seeds = torch.as_tensor(batch.seed)
    assert seeds.tolist() == [dataset(photos)[number].seed for number in range(3)]


# Broken files


def test_broken_photographs_are_named_once_and_replaced(tmp_path: Path) -> None:
    save(tmp_path / "a.png", data.astronaut()[:120, :120])
    truncate(save(tmp_path / "b.png", data.coffee()[:120, :120]))
    (tmp_path / "c.png").write_bytes(b"no header either")
    notes: list[str] = []
    photos = find_photos([Root(tmp_path)], ANY, notes.append)
    assert [photo.path.name for photo in photos] == ["a.png", "b.png"]
    assert len(notes) == 1
    assert "c.png" in notes[0]
    crops = PhotoDataset(photos, 64, seed=0, note=notes.append)
    samples = [crops[number] for number in range(10)]
    assert {sample.name for sample in samples} == {f"{tmp_path.name}/a.png"}
    assert len(notes) == 2
    assert "b.png" in notes[1]
    assert len({sample.seed for sample in samples}) == 10


def test_broken_photographs_alone_are_an_error(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        truncate(save(tmp_path / name, data.coffee()[:120, :120]))
    notes: list[str] = []
    crops = PhotoDataset(
        find_photos([Root(tmp_path)], ANY, notes.append), 64, seed=0, note=notes.append
    )
    with pytest.raises(PipelineError, match="not one of 2 pictures can be decoded"):
        crops[0]
    assert len(notes) == 2
