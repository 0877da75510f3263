"""Preparation of data sets, pairs of pictures, and training patches."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from torch.utils.data import DataLoader

from pipelines.contract import PipelineError
from pipelines.matlab_resize import imresize, upsample_lr
from pipelines.pictures import picture_size, read_picture, write_png
from pipelines.srdiff.dataset import PatchDataset, Sample
from pipelines.srdiff.manifest import FILE_NAME, Settings, open_manifest
from pipelines.srdiff.pairs import Pair, iterate_pairs, load_pair, open_pairs
from pipelines.srdiff.prepare import Summary, prepare
from pipelines.srdiff.sources import Dataset, find_sources
from pipelines.srdiff.windows import Cutting, Rule, authors_spans, hr_multiple, port_spans

Files = dict[str, bytes]


def save(path: Path, picture: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_png(path, np.ascontiguousarray(picture))
    return path


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parts of four photographs, of odd sizes too, and a truncated one between them."""
    folder = tmp_path_factory.mktemp("photographs")
    save(folder / "a.png", data.astronaut()[:160, :230])
    truncate(save(folder / "b.png", data.coffee()[:150, :200]))
    save(folder / "c.png", data.chelsea()[40:185, :201])
    save(folder / "d.png", data.coffee()[100:250, 100:300])
    Image.fromarray(data.rocket()[:144, 200:400]).save(folder / "e.jpg", quality=95)
    return folder


def files_of(folder: Path) -> Files:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def run(
    root: Path,
    output: Path,
    *,
    dataset: Dataset = Dataset.FOLDER,
    rule: Rule = Rule.PORT,
    scale: int = 4,
    crop_size: int = 64,
    strict: bool = False,
    workers: int = 1,
) -> tuple[Summary, list[str]]:
    notes: list[str] = []
    summary = prepare(
        root,
        dataset,
        output,
        cutting=Cutting(rule, scale, crop_size),
        val_every=5,
        workers=workers,
        strict=strict,
        note=notes.append,
    )
    return summary, notes


@pytest.fixture(scope="module")
def prepared(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("prepared") / "out"
    run(photographs, output)
    return output


# Windows


def test_authors_windows_of_the_documented_picture() -> None:
    windows = Cutting(Rule.AUTHORS, 4, 320).windows("train", 1404, 2040)
    assert len(windows) == 24
    assert {w.height for w in windows} | {w.width for w in windows} == {320}
    assert authors_spans(1440, 320) == [(0, 320), (320, 320), (640, 320), (960, 320)]
    assert authors_spans(1444, 320)[-1] == (1280, 164)
    assert authors_spans(160, 320) == []


def test_port_windows_cover_everything_and_end_at_the_border() -> None:
    assert port_spans(1000, 320) == [(0, 320), (320, 320), (640, 320), (680, 320)]
    assert port_spans(640, 320) == [(0, 320), (320, 320)]
    assert port_spans(320, 320) == [(0, 320)]
    assert port_spans(319, 320) == []
    assert len(Cutting(Rule.PORT, 4, 320).windows("train", 1404, 2040)) == 35


def test_lr_is_of_each_window_or_of_the_whole_picture() -> None:
    picture = data.chelsea()[:203, :301]
    [*_, (port_hr, port_lr)] = Cutting(Rule.PORT, 4, 96).pairs("train", picture)
    assert_array_equal(port_hr, picture[-96:, -96:])
    assert_array_equal(port_lr, imresize(np.ascontiguousarray(port_hr), 0.25))
    cut = list(Cutting(Rule.AUTHORS, 4, 96).pairs("train", picture))
    whole = imresize(picture[:200, :300], Fraction(1, 4))
    assert [hr.shape[:2] for hr, _ in cut] == [(96, 96)] * 6
    assert_array_equal(cut[4][0], picture[96:192, 96:192])
    assert_array_equal(cut[4][1], whole[24:48, 24:48])
    assert (cut[4][1] != imresize(cut[4][0], 0.25)).any()


def test_validation_pictures_stay_whole_but_for_the_authors_limit() -> None:
    picture = np.zeros((1001, 2101, 3), np.uint8)
    [(hr, lr)] = Cutting(Rule.PORT, 4, 320).pairs("val", picture)
    assert (hr.shape, lr.shape) == ((1001, 2101, 3), (251, 526, 3))
    [(hr, lr)] = Cutting(Rule.AUTHORS, 4, 320).pairs("val", picture)
    assert (hr.shape, lr.shape) == ((1000, 2040, 3), (250, 510, 3))


# Sources


def test_published_layouts_are_found_in_the_authors_order(tmp_path: Path) -> None:
    pixels = np.zeros((2, 2, 3), np.uint8)
    names = ("DIV2K_train_HR/0002.png", "DIV2K_train_HR/0001.png", "DIV2K/DIV2K_valid_HR/0801.png")
    for name in (*names, "Flickr2K_HR/000001.png"):
        save(tmp_path / name, pixels)
    (tmp_path / "DIV2K_train_HR" / "readme.txt").touch()
    found = find_sources(tmp_path, Dataset.DF2K, 4, val_every=0, note=pytest.fail)
    assert [(source.split, source.file) for source in found] == [
        ("train", "Flickr2K_HR/000001.png"),
        ("train", "DIV2K_train_HR/0001.png"),
        ("train", "DIV2K_train_HR/0002.png"),
        ("val", "DIV2K/DIV2K_valid_HR/0801.png"),
    ]
    (tmp_path / "DIV2K" / "DIV2K_valid_HR" / "0801.png").unlink()
    notes: list[str] = []
    found = find_sources(tmp_path, Dataset.DIV2K, 4, val_every=0, note=notes.append)
    assert len(found) == 2
    assert "DIV2K_valid_HR" in notes[0]
    with pytest.raises(PipelineError, match=r"flickr2k not found.*Flickr2K_HR"):
        find_sources(tmp_path / "DIV2K", Dataset.FLICKR2K, 4, val_every=0, note=pytest.fail)


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("Set5/HR/{}.png", ["Set5/HR/baby.png"]),
        ("Set5/{}.bmp", ["Set5/baby.bmp"]),
        ("Set5/image_SRF_4/{}_HR.png", ["Set5/image_SRF_4/baby_HR.png"]),
    ],
)
def test_benchmark_layouts(tmp_path: Path, layout: str, expected: list[str]) -> None:
    for name in (layout.format("baby"), "Set5/image_SRF_4/baby_LR.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    found = find_sources(tmp_path, Dataset.SET5, 4, val_every=0, note=pytest.fail)
    assert [source.file for source in found] == expected
    assert {source.split for source in found} == {"val"}
    with pytest.raises(PipelineError, match=r"urban100 not found.*Urban100/HR"):
        find_sources(tmp_path, Dataset.URBAN100, 4, val_every=0, note=pytest.fail)


# Preparation


def test_prepared_folder(photographs: Path, prepared: Path, tmp_path: Path) -> None:
    summary, notes = run(photographs, tmp_path / "again", workers=2)
    assert summary.pairs == {"train": 3 * 4 + 3 * 4 + 3 * 4, "val": 1}
    assert [skipped.file for skipped in summary.skipped] == ["b.png"]
    assert "warning: 1 of 5 pictures skipped" in notes
    assert any("b.png: truncated" in line for line in notes)
    files = files_of(tmp_path / "again")
    assert files == files_of(prepared)
    names = {name for name in files if name.startswith("train/X4/")}
    assert names == {f"train/X4/image_{number:04d}.png" for number in range(36)}
    assert {name.replace("X4", "X1") for name in names} <= files.keys()
    first_of_c = read_picture(prepared / "train" / "X1" / "image_0012.png")
    assert_array_equal(first_of_c, data.chelsea()[40:104, :64])
    assert_array_equal(
        read_picture(prepared / "train" / "X4" / "image_0012.png"), imresize(first_of_c, 0.25)
    )
    assert_array_equal(
        read_picture(prepared / "val" / "X1" / "image_0000.png"),
        read_picture(photographs / "e.jpg"),
    )


def command(root: Path, output: Path, *options: str) -> list[str]:
    return [
        *(sys.executable, "-m", "pipelines.srdiff.prepare", "--root", str(root)),
        *("--dataset", "folder", "--output", str(output), *options),
    ]


def children_of(process: int) -> list[int]:
    return [
        int(pid) for pid in Path(f"/proc/{process}/task/{process}/children").read_text().split()
    ]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def finished_in(output: Path) -> list[dict[str, int]]:
    path = output / FILE_NAME
    lines = path.read_text().splitlines() if path.exists() else []
    return [record for record in map(json.loads, lines) if record["kind"] == "done"]


def wait_for(what: str, condition: Callable[[], object]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, what
        time.sleep(0.002)


def test_goes_on_after_kill_9_with_equal_bytes(tmp_path: Path, project_root: Path) -> None:
    for name, picture in (
        ("a", data.astronaut()),
        ("b", data.coffee()),
        ("c", data.astronaut()[::-1]),
        ("d", data.coffee()[::-1]),
    ):
        save(tmp_path / "photographs" / f"{name}.png", picture[:320, :400])
    options = ("--crop-size", "24", "--workers", "2")
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    order = command(tmp_path / "photographs", killed, *options)
    process = subprocess.Popen(order, cwd=project_root, stdout=subprocess.DEVNULL)
    wait_for("nothing was finished", lambda: finished_in(killed))
    workers = children_of(process.pid)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    wait_for("processes survived their parent", lambda: not any(map(alive, workers)))
    finished = finished_in(killed)
    assert 1 <= len(finished) < 4
    kept = {
        path: path.stat().st_mtime_ns
        for record in finished
        for path in (
            killed / "train" / "X1" / f"image_{number:04d}.png"
            for number in range(record["first"], record["first"] + record["count"])
        )
    }
    with (killed / FILE_NAME).open("a") as file:
        file.write('{"kind":"done","sour')
    (killed / "train" / "X1" / ".torn.part").touch()
    for output in (killed, whole):
        arguments = command(tmp_path / "photographs", output, *options)
        ended = subprocess.run(arguments, cwd=project_root, capture_output=True, text=True)
        assert ended.returncode == 0
        assert ended.stdout.count("\n") == 1
    assert files_of(killed) == files_of(whole)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_lost_file_is_made_again(photographs: Path, prepared: Path, tmp_path: Path) -> None:
    run(photographs, tmp_path / "out")
    (tmp_path / "out" / "train" / "X4" / "image_0007.png").unlink()
    (tmp_path / "out" / "train" / "X1" / "image_0030.png").write_bytes(b"")
    run(photographs, tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(prepared)


def test_bad_requests_are_one_line_and_leave_nothing(
    photographs: Path, tmp_path: Path, project_root: Path
) -> None:
    output = tmp_path / "out"
    for arguments, message in (
        (command(photographs, tmp_path / "a_pickle"), "pickles are not written"),
        (command(photographs, output, "--crop-size", "30"), "--crop-size 30: must be a multiple"),
        (command(tmp_path / "none", output), "no such folder (--root)"),
    ):
        ended = subprocess.run(arguments, cwd=project_root, capture_output=True, text=True)
        assert ended.returncode == 2
        assert message in ended.stderr
        assert (ended.stderr.count("\n"), ended.stdout) == (1, "")
    assert not list(tmp_path.iterdir())


def test_strict_names_the_first_picture(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(PipelineError, match=r"1 of 5 pictures cannot be used, first b\.png: trunc"):
        run(photographs, tmp_path / "out", strict=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {FILE_NAME}


def test_pictures_smaller_than_the_crop_are_named(photographs: Path, tmp_path: Path) -> None:
    summary, _ = run(photographs, tmp_path / "out", crop_size=152)
    assert [(skipped.file, skipped.reason) for skipped in summary.skipped] == [
        ("b.png", "truncated or damaged image (image file is truncated)"),
        ("c.png", "201x145 is too small for windows of 152"),
        ("d.png", "200x150 is too small for windows of 152"),
    ]
    save(tmp_path / "root" / "x.png", data.chelsea()[:63, :80])
    with pytest.raises(PipelineError, match=r"1 of 1 pictures cannot be used, first x\.png: 80x63"):
        run(tmp_path / "root", tmp_path / "none")


def test_odd_sizes_are_said(photographs: Path, tmp_path: Path) -> None:
    _, notes = run(photographs, tmp_path / "out", rule=Rule.AUTHORS)
    assert "sides of 3 of 5 pictures are cropped to a multiple of 4" in notes
    save(tmp_path / "Set5" / "x.png", data.chelsea()[:41, :50])
    _, notes = run(tmp_path, tmp_path / "val", dataset=Dataset.SET5)
    assert len(notes) == 1
    assert "sides of 1 val pictures are not a multiple of 4" in notes[0]
    assert picture_size(tmp_path / "val" / "val" / "X4" / "image_0000.png") == (11, 13)


def test_another_setting_or_other_pictures_are_refused(photographs: Path, tmp_path: Path) -> None:
    root, output = tmp_path / "root", tmp_path / "out"
    for name in ("a", "c", "d"):
        (root / f"{name}.png").parent.mkdir(exist_ok=True)
        (root / f"{name}.png").write_bytes((photographs / f"{name}.png").read_bytes())
    run(root, output, crop_size=128)
    before = files_of(output)
    with pytest.raises(PipelineError, match="begun with crop-size 128, now 64; give"):
        run(root, output)
    with pytest.raises(PipelineError, match="begun with windows port, now authors"):
        run(root, output, crop_size=128, rule=Rule.AUTHORS)
    (root / "a.png").write_bytes((photographs / "d.png").read_bytes())
    with pytest.raises(PipelineError, match=r"a\.png: changed or gone"):
        run(root, output, crop_size=128)
    (root / "a.png").unlink()
    with pytest.raises(PipelineError, match=r"1 came or went, first a\.png"):
        run(root, output, crop_size=128)
    with pytest.raises(PipelineError, match="not empty and not made by prepare"):
        run(root, root)
    assert files_of(output) == before


def test_a_picture_changed_to_one_of_equal_size_is_refused(tmp_path: Path) -> None:
    pixels = data.astronaut()[:64, :64]
    file = save(tmp_path / "root" / "a.png", pixels)
    run(tmp_path / "root", tmp_path / "out")
    (tmp_path / "out" / "train" / "X1" / "image_0000.png").unlink()
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    with pytest.raises(PipelineError, match=r"a\.png: changed or gone"):
        run(tmp_path / "root", tmp_path / "out")


def test_one_preparation_at_a_time_and_no_damaged_manifest(tmp_path: Path) -> None:
    settings = Settings("folder", 4, 64, "port", 5, ())
    with (
        open_manifest(tmp_path / "out", settings),
        pytest.raises(PipelineError, match="another prepare is writing"),
        open_manifest(tmp_path / "out", settings),
    ):
        pass
    for content in ("[]\n", '{"kind":"scan","source":1,"bytes":2,"sha256":"","notes":[]}\n', "x\n"):
        (tmp_path / "out" / FILE_NAME).write_text(content)
        with (
            pytest.raises(PipelineError, match="damaged, or not written by prepare"),
            open_manifest(tmp_path / "out", settings),
        ):
            pass


def test_any_kind_of_picture_becomes_8_bit_rgb(tmp_path: Path) -> None:
    grey = np.arange(0, 65536, 65536 // 64, dtype=np.uint16).reshape(8, 8)
    Image.fromarray(grey).save(tmp_path / "16.png")
    expected = np.rint(grey / 257).astype(np.uint8)
    assert_array_equal(read_picture(tmp_path / "16.png"), expected[..., None].repeat(3, axis=2))
    photograph = Image.fromarray(data.chelsea()[:30, :40])
    photograph.quantize(8).save(tmp_path / "palette.png")
    assert read_picture(tmp_path / "palette.png").shape == (30, 40, 3)
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph.save(tmp_path / "turned.png", exif=exif)
    assert picture_size(tmp_path / "turned.png") == (40, 30)
    assert_array_equal(
        read_picture(tmp_path / "turned.png"), np.rot90(data.chelsea()[:30, :40], -1)
    )
    photograph.putalpha(0)
    photograph.save(tmp_path / "glass.png")
    notes: list[str] = []
    assert (read_picture(tmp_path / "glass.png", notes.append) == 255).all()
    assert notes == [f"{tmp_path / 'glass.png'}: transparent parts are put onto white"]
    (tmp_path / "none.png").touch()
    with pytest.raises(PipelineError, match=r"none\.png: empty file"):
        read_picture(tmp_path / "none.png")


# Pairs


def test_pairs_of_a_prepared_folder(prepared: Path) -> None:
    notes: list[str] = []
    pairs = open_pairs(prepared, "train", 4, notes.append)
    assert [pair.name for pair in pairs[:2]] == ["image_0000.png", "image_0001.png"]
    assert (len(pairs), notes) == (36, [])
    [val] = open_pairs(prepared / "val", "val", 4, notes.append)
    hr, lr = load_pair(val)
    assert (hr.shape, lr.shape) == ((144, 200, 3), (36, 50, 3))
    with pytest.raises(PipelineError, match=r"X8: no such folder \(found X4\)"):
        open_pairs(prepared, "train", 8, notes.append)


def test_pairs_without_partner_are_named_and_odd_ones_cropped(tmp_path: Path) -> None:
    picture = data.chelsea()[:83, :102]
    for name in ("a", "b", "c"):
        save(tmp_path / "X1" / f"{name}.png", picture)
    for name in ("b", "c", "d"):
        save(tmp_path / "X4" / f"{name}.png", imresize(picture, 0.25))
    notes: list[str] = []
    pairs = open_pairs(tmp_path, "train", 4, notes.append)
    assert [pair.name for pair in pairs] == ["b.png", "c.png"]
    assert "2 pictures without a partner left out" in notes[0]
    assert str(tmp_path / "X1" / "a.png") in notes[0]
    assert str(tmp_path / "X4" / "d.png") in notes[0]
    assert "2 of 2 train pictures are cropped to sides that are multiples of 8" in notes[1]
    hr, lr = load_pair(pairs[0])
    assert_array_equal(hr, picture[:80, :96])
    assert_array_equal(lr, imresize(picture, 0.25)[:20, :24])
    save(tmp_path / "X4" / "c.png", imresize(picture, 0.5))
    with pytest.raises(
        PipelineError, match=r"X4/c\.png: 51x42 is not c\.png \(102x83\) reduced by"
    ):
        open_pairs(tmp_path, "train", 4, notes.append)


def test_div2k_layout_with_and_without_lr(tmp_path: Path) -> None:
    picture = data.coffee()[:96, :128]
    save(tmp_path / "DIV2K_valid_HR" / "0801.png", picture)
    [pair] = open_pairs(tmp_path, "val", 4, pytest.fail)
    assert pair.lr is None
    assert_array_equal(load_pair(pair)[1], imresize(picture, 0.25))
    low = save(tmp_path / "DIV2K_valid_LR_bicubic" / "X4" / "0801x4.png", picture[:24, :32])
    [pair] = open_pairs(tmp_path, "val", 4, pytest.fail)
    assert pair == Pair("0801.png", tmp_path / "DIV2K_valid_HR" / "0801.png", low, 4)
    assert_array_equal(load_pair(pair)[1], picture[:24, :32])
    with pytest.raises(PipelineError, match="no train pictures; expected train/X1 with train/X4"):
        open_pairs(tmp_path, "train", 4, pytest.fail)


def test_a_plain_folder_is_cropped_before_it_is_reduced(photographs: Path) -> None:
    notes: list[str] = []
    pairs = open_pairs(photographs, "val", 4, notes.append)
    assert "all its pictures are used for val" in notes[0]
    hr, lr = load_pair(pairs[2])
    assert_array_equal(hr, data.chelsea()[40:184, :200])
    assert_array_equal(lr, imresize(hr, Fraction(1, 4)))


def test_damaged_pictures_are_named_skipped_and_counted(photographs: Path) -> None:
    notes: list[str] = []
    pairs = open_pairs(photographs, "val", 4, lambda _: None)
    loaded = list(iterate_pairs(pairs, notes.append))
    assert [pair.name for pair, _, _ in loaded] == ["a.png", "c.png", "d.png", "e.jpg"]
    assert notes[0] == (
        f"warning: {photographs / 'b.png'}: truncated or damaged image (image file is truncated); "
        "skipped"
    )
    assert notes[1] == "warning: 1 of 5 pictures skipped"
    with pytest.raises(PipelineError, match=r"no picture can be used, first .*b\.png"):
        list(iterate_pairs([pairs[1]], notes.append))


# Patches


def patches(
    prepared: Path, *, augment: bool = False, seed: int = 7, patch: int = 48, divisor: int = 256
) -> PatchDataset:
    pairs = open_pairs(prepared, "train", 4, pytest.fail)
    return PatchDataset(
        pairs, patch, 4, divisor=divisor, augment=augment, seed=seed, note=pytest.fail
    )


def equal(one: Sample, other: Sample) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def pixels(planes: torch.Tensor) -> NDArray[np.uint8]:
    return ((planes + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0).numpy()


def test_sample_is_a_matching_patch_of_its_picture(prepared: Path) -> None:
    dataset = patches(prepared)
    sources = [load_pair(pair) for pair in open_pairs(prepared, "train", 4, pytest.fail)]
    for number in range(4):
        sample = dataset.sample(number)
        assert [tuple(part.shape) for part in sample] == [(3, 48, 48), (3, 12, 12), (3, 48, 48)]
        assert {part.dtype for part in sample} == {torch.float32}
        hr, lr = pixels(sample.hr), pixels(sample.lr)
        found = [
            (top, left)
            for high, low in sources
            for top in range(0, 17, 4)
            for left in range(0, 17, 4)
            if (high[top : top + 48, left : left + 48] == hr).all()
            and (low[top // 4 : top // 4 + 12, left // 4 : left // 4 + 12] == lr).all()
        ]
        assert len(found) == 1
        up = upsample_lr(np.ascontiguousarray(lr), 4).transpose(2, 0, 1).astype(np.float32)
        assert_array_equal(sample.lr_up.numpy(), up)


def test_samples_depend_on_seed_and_number_alone(prepared: Path) -> None:
    dataset = patches(prepared, augment=True)
    in_order = [dataset.sample(number) for number in range(12)]
    again = patches(prepared, augment=True)
    assert all(equal(again.sample(number), in_order[number]) for number in (11, 0, 5, 5))
    assert not equal(in_order[0], in_order[1])
    other = patches(prepared, augment=True, seed=8)
    assert not any(equal(other.sample(number), in_order[number]) for number in range(12))
    loader = DataLoader(dataset, batch_size=6, sampler=range(12), num_workers=1)
    batches = list(loader)
    assert isinstance(batches[0], Sample)
    assert torch.equal(batches[1].lr_up, torch.stack([sample.lr_up for sample in in_order[6:]]))


def test_pictures_beyond_the_cache_give_the_same_samples(prepared: Path) -> None:
    pairs = open_pairs(prepared, "train", 4, pytest.fail)
    cached = PatchDataset(pairs, 48, 4, augment=True, seed=1)
    read = PatchDataset(pairs, 48, 4, augment=True, seed=1, cache_bytes=30_000)
    assert all(equal(cached[number], read[number]) for number in range(6))


def test_augmentation_turns_all_three_alike(prepared: Path) -> None:
    plain, turned = patches(prepared, patch=64), patches(prepared, patch=64, augment=True)
    turns = set()
    for number in range(64):
        before, after = plain.sample(number), turned.sample(number)
        for turn in range(8):
            planes = [part.flip(1) if turn & 1 else part for part in before]
            planes = [part.flip(2) if turn & 2 else part for part in planes]
            planes = [part.mT if turn & 4 else part for part in planes]
            if torch.equal(planes[0], after.hr) and torch.equal(planes[1], after.lr):
                assert torch.allclose(planes[2], after.lr_up, atol=1e-6)
                turns.add(turn)
                break
        else:
            pytest.fail("HR and LR were not turned alike")
    assert turns == set(range(8))


def test_divisor_darkens_the_upsampled_lr_alone(prepared: Path) -> None:
    published, honest = patches(prepared).sample(3), patches(prepared, divisor=255).sample(3)
    assert torch.equal(published.hr, honest.hr)
    torch.testing.assert_close((published.lr_up + 1) * 256, (honest.lr_up + 1) * 255)


def test_small_and_damaged_pictures_are_left_out_of_training(photographs: Path) -> None:
    notes: list[str] = []
    pairs = open_pairs(photographs, "train", 4, lambda _: None)
    dataset = PatchDataset(pairs, 152, 4, augment=False, seed=0, note=notes.append)
    assert len(dataset) == 1
    assert "warning: 1 of 5 pictures skipped" in notes
    assert notes[-1] == (
        "warning: 3 of 5 pictures are smaller than the patch of 152 and skipped: "
        "c.png, d.png, e.jpg"
    )
    with pytest.raises(PipelineError, match="no picture is as large as the patch of 320"):
        PatchDataset(pairs, 320, 4, augment=False, seed=0, note=notes.append)
    with pytest.raises(PipelineError, match="patch 100: must be a multiple of 8"):
        PatchDataset(pairs, 100, 4, augment=False, seed=0, note=notes.append)


def test_hr_sides_fit_the_loader_and_the_unet() -> None:
    assert [hr_multiple(scale) for scale in (2, 4, 8)] == [8, 8, 16]
