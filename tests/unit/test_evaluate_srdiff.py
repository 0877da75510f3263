"""SRDiff's metrics, samples and data layouts, against numbers computed here with NumPy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from pipelines.contract import Precision, WeightsSource
from srbench.config import MAX_SEED
from srbench.errors import UsageError
from srbench.fidelity.evaluate import Evaluation, evaluate
from srbench.fidelity.layouts import find_inputs, find_items
from srbench.fidelity.measures import Diversity, lr_psnr, skimage_ssim
from srbench.fidelity.plan import Question, make_plan, whole_scale
from srbench.images import read_image, write_image
from srbench.upscaling import Request, plan_samples, upscale_files
from tests.fixtures_pipelines import Bicubic, BicubicOptions

Picture = NDArray[np.uint8]


def crop_of(photo: Picture, top: int, left: int, height: int, width: int) -> Picture:
    return np.ascontiguousarray(photo[top : top + height, left : left + width])


@pytest.fixture(scope="module")
def photos() -> dict[str, Picture]:
    return {
        "0801": crop_of(data.astronaut(), 60, 180, 96, 80),
        "0802": crop_of(data.coffee(), 100, 200, 64, 96),
    }


def altered(picture: Picture, seed: int, levels: int = 12) -> Picture:
    noise = np.random.default_rng(seed).integers(-levels, levels + 1, picture.shape)
    return np.clip(picture.astype(int) + noise, 0, 255).astype(np.uint8)


def save(folder: Path, pictures: dict[str, Picture], name: str = "{}.png") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for stem, picture in pictures.items():
        write_image(folder / name.format(stem), picture)
    return folder


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8]) -> float:
    return float(10 * np.log10(255**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def quartered(picture: Picture) -> Picture:
    """MATLAB's imresize(picture, 1/4) of sides divisible by 4, tap by tap."""
    distance = np.abs((np.arange(16) - 7.5) / 4)
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    taps = np.where(distance <= 1, near, far)
    taps /= taps.sum()
    for axis in (0, 1):
        border = [(6, 6) if side == axis else (0, 0) for side in range(3)]
        padded = np.moveaxis(np.pad(picture, border, mode="symmetric"), axis, 0)
        windows = np.lib.stride_tricks.sliding_window_view(padded, 16, axis=0)[::4]
        picture = np.moveaxis(np.clip(np.rint(windows @ taps), 0, 255), 0, axis).astype(np.uint8)
    return picture


def structural_similarity(a: Picture, b: Picture) -> float:
    """Of every whole 7x7 window, sample covariance, mean over windows and channels."""
    x, y = (
        np.lib.stride_tricks.sliding_window_view(p.astype(float), (7, 7), axis=(0, 1))
        for p in (a, b)
    )
    mean_x, mean_y = x.mean((-1, -2)), y.mean((-1, -2))
    covariance = (x * y).sum((-1, -2)) - 49 * mean_x * mean_y
    variances = x.var((-1, -2), ddof=1) + y.var((-1, -2), ddof=1)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * covariance / 48 + c2)
    return float((top / ((mean_x**2 + mean_y**2 + c1) * (variances + c2))).mean())


def judged(sr_dir: Path, hr_dir: Path, *metrics: str, **choices: object) -> Evaluation:
    question = Question(sr_dir, hr_dir, metrics)
    return evaluate(make_plan(replace(question, **choices)))  # type: ignore[arg-type]


def test_ssim_is_that_of_7x7_windows_and_sample_covariance(photos: dict[str, Picture]) -> None:
    photo = photos["0801"]
    noisy = altered(photo, 0)
    found = skimage_ssim(noisy, photo)
    assert found.value == pytest.approx(structural_similarity(noisy, photo), abs=1e-9)
    assert (found.value or 1) < 0.95
    assert "scikit-image" in found.provider
    assert "7x7 uniform" in found.provider
    tiny = skimage_ssim(noisy[:6], photo[:6])
    assert tiny.value is None
    assert "win_size" in (tiny.reason or "")


def test_lr_psnr_is_that_of_the_shrunk_picture(photos: dict[str, Picture]) -> None:
    photo = photos["0801"]
    noisy = altered(photo, 1, 40)
    lr = quartered(photo)
    found = lr_psnr(noisy, lr, 4, "LR as given")
    assert found.value == pytest.approx(psnr(quartered(noisy), lr), abs=1e-6)
    assert found.provider.endswith("LR as given)")
    assert lr_psnr(photo, lr, 4, "").value == pytest.approx(160)


def test_diversity_is_the_mean_population_deviation(photos: dict[str, Picture]) -> None:
    samples = [altered(photos["0802"], seed, 30) for seed in range(5)]
    diversity = Diversity()
    for sample in samples:
        diversity.add(sample)
    found = diversity.measure()
    assert found.value == pytest.approx(np.stack(samples).std(axis=0).mean(), abs=1e-9)
    assert "divided by their number, not one less" in found.provider


def test_samples_are_averaged_and_their_spread_is_measured(
    tmp_path: Path, photos: dict[str, Picture]
) -> None:
    hr = save(tmp_path / "hr", photos)
    samples = [{k: altered(p, seed) for k, p in photos.items()} for seed in range(3)]
    for number, sample in enumerate(samples):
        save(tmp_path / f"sr/sample-{number:04d}", sample)
    found = judged(tmp_path / "sr", hr, "psnr_rgb", "diversity", "lr_psnr", scale=4)
    assert found.samples == 3
    for scores, (stem, photo) in zip(found.images, photos.items(), strict=True):
        pictures = [sample[stem] for sample in samples]
        assert scores.file == f"{stem}.png"
        expected = {
            "psnr_rgb": np.mean([psnr(p, photo) for p in pictures]),
            "lr_psnr": np.mean([psnr(quartered(p), quartered(photo)) for p in pictures]),
            "diversity": np.stack(pictures).std(axis=0).mean(),
        }
        assert scores.metrics == pytest.approx(expected, abs=1e-3)
    assert "LR made as imresize(HR, 1/4)" in found.providers["lr_psnr"]


def test_one_picture_has_no_diversity(tmp_path: Path, photos: dict[str, Picture]) -> None:
    hr = save(tmp_path / "hr", photos)
    found = judged(hr, hr, "diversity", "ssim_skimage")
    assert found.mean == {"diversity": None, "ssim_skimage": pytest.approx(1)}
    assert "sample-0000" in found.images[0].not_measured["diversity"]
    assert "diversity" not in found.providers


def test_samples_must_be_of_the_same_pictures(tmp_path: Path, photos: dict[str, Picture]) -> None:
    hr = save(tmp_path / "hr", photos)
    for number in range(2):
        save(tmp_path / f"sr/sample-{number:04d}", photos)
    (tmp_path / "sr/sample-0001/0802.png").unlink()
    with pytest.raises(UsageError, match=r"sample-0001: no 0802\.png"):
        find_items(tmp_path / "sr", hr)
    write_image(tmp_path / "sr/sample-0001/0802.png", photos["0802"][:-8])
    with pytest.raises(UsageError, match=r"sample-0001/0802\.png: 96x56 pixels where"):
        judged(tmp_path / "sr", hr, "psnr")
    save(tmp_path / "sr", photos)
    with pytest.raises(UsageError, match=r"0801\.png, 0802\.png\) beside folders of samples"):
        find_items(tmp_path / "sr", hr)


@pytest.mark.parametrize("layout", ["div2k", "prepared", "lr_dir"])
def test_layouts_name_references_and_inputs(
    layout: str, tmp_path: Path, photos: dict[str, Picture]
) -> None:
    inputs = {stem: altered(quartered(photo), 3, 2) for stem, photo in photos.items()}
    outputs = {stem: altered(photo, 4) for stem, photo in photos.items()}
    root = tmp_path / "root"
    lr_dir = None
    match layout:
        case "div2k":
            save(root / "DIV2K_valid_HR", photos)
            save(root / "DIV2K_valid_LR_bicubic/X4", inputs, "{}x4.png")
            sr = save(tmp_path / "sr", outputs, "{}x4.png")
        case "prepared":
            save(root / "X1", photos, "image_{}.png")
            save(root / "X4", inputs, "image_{}.png")
            sr = save(tmp_path / "sr", outputs, "image_{}.png")
        case _:
            save(root, photos)
            lr_dir = save(tmp_path / "lr", inputs, "{}x4.bmp")
            sr = save(tmp_path / "sr", outputs)
    found = judged(sr, root, "psnr_rgb", "lr_psnr", lr_dir=lr_dir)
    for scores, (stem, photo) in zip(found.images, photos.items(), strict=True):
        expected = psnr(quartered(outputs[stem]), inputs[stem])
        assert scores.metrics["lr_psnr"] == pytest.approx(expected, abs=1e-6)
        assert scores.metrics["psnr_rgb"] == pytest.approx(psnr(outputs[stem], photo), abs=1e-3)
    assert "LR as given" in found.providers["lr_psnr"]


def test_several_inputs_need_the_scale(tmp_path: Path, photos: dict[str, Picture]) -> None:
    save(tmp_path / "X1", photos)
    for scale in (2, 4):
        save(tmp_path / f"X{scale}", {stem: p[::scale, ::scale] for stem, p in photos.items()})
    assert find_inputs(tmp_path, None) is None
    assert find_inputs(tmp_path, 2) == tmp_path / "X2"
    with pytest.raises(UsageError, match="--scale N or --lr-dir DIR"):
        judged(tmp_path / "X1", tmp_path, "lr_psnr")
    assert make_plan(Question(tmp_path / "X1", tmp_path, ("lr_psnr",), scale=2)).jobs[0].scale == 2


def test_crop_cuts_what_the_loader_cut(tmp_path: Path, photos: dict[str, Picture]) -> None:
    photo = photos["0801"]
    hr = save(tmp_path / "hr", {"a": photo[:95, :78], "b": photo})
    lr = save(tmp_path / "lr", {"a": quartered(photo)[:24, :20], "b": quartered(photo)})
    sr = save(tmp_path / "sr", {"a": altered(photo[:88, :72], 1), "b": altered(photo, 2)})
    with pytest.raises(UsageError, match=r"sr/a\.png: 72x88 .* 78x95; metrics need equal sizes"):
        judged(sr, hr, "psnr")
    found = judged(sr, hr, "psnr_rgb", "lr_psnr", lr_dir=lr, crop=True)
    assert found.cropped == 1
    outputs = [read_image(sr / name) for name in ("a.png", "b.png")]
    expected = [
        {
            "psnr_rgb": psnr(output, photo[: output.shape[0], : output.shape[1]]),
            "lr_psnr": psnr(
                quartered(output),
                quartered(photo)[: output.shape[0] // 4, : output.shape[1] // 4],
            ),
        }
        for output in outputs
    ]
    assert found.images[0].metrics == pytest.approx(expected[0], abs=1e-3)
    assert found.images[1].metrics == pytest.approx(expected[1], abs=1e-3)


@pytest.mark.parametrize(("top", "left"), [(88, 80), (97, 80)])
def test_crop_has_limits(top: int, left: int, tmp_path: Path, photos: dict[str, Picture]) -> None:
    hr = save(tmp_path / "hr", {"a": photos["0801"]})
    large = np.pad(photos["0801"], ((0, 8), (0, 8), (0, 0)))
    sr = save(tmp_path / "sr", {"a": large[:top, :left]})
    with pytest.raises(UsageError, match="--crop cuts less than 8 pixels a side"):
        judged(sr, hr, "psnr", crop=True, scale=4)


@pytest.mark.parametrize(
    ("sr", "lr", "known", "slack", "scale"),
    [
        ((96, 80), (24, 20), None, 0, 4),
        ((96, 80), (12, 10), None, 0, 8),
        ((96, 80), (25, 22), None, 2, 4),
        ((96, 80), (25, 22), None, 1, None),
        ((96, 80), (24, 40), None, 0, None),
        ((96, 80), (23, 20), None, 2, None),
        ((96, 80), (48, 40), 4, 0, None),
        ((16, 16), (4, 4), None, 2, 4),
    ],
)
def test_the_factor_follows_from_sizes(
    sr: tuple[int, int], lr: tuple[int, int], known: int | None, slack: int, scale: int | None
) -> None:
    assert whole_scale(sr, lr, known, slack) == scale


def test_inputs_of_another_size_are_refused(tmp_path: Path, photos: dict[str, Picture]) -> None:
    hr = save(tmp_path / "hr", photos)
    lr = save(tmp_path / "lr", {stem: p[::3, ::5] for stem, p in photos.items()})
    with pytest.raises(UsageError, match=r"lr/0801\.png: 16x32 pixels; times a whole number"):
        judged(hr, hr, "lr_psnr", lr_dir=lr)


@pytest.mark.parametrize("broken", ["sr", "hr", "lr"])
def test_broken_files_are_never_silent(
    broken: str, tmp_path: Path, photos: dict[str, Picture]
) -> None:
    folders = {name: save(tmp_path / name, photos) for name in ("sr", "hr")}
    folders["lr"] = save(tmp_path / "lr", {stem: quartered(p) for stem, p in photos.items()})
    path = folders[broken] / "0801.png"
    path.write_bytes(path.read_bytes()[:-500])
    choices = {"lr_dir": folders["lr"]}
    with pytest.raises(UsageError, match=rf"{broken}/0801\.png: truncated .* --skip-broken"):
        judged(folders["sr"], folders["hr"], "psnr", **choices)
    found = judged(folders["sr"], folders["hr"], "psnr", **choices, skip_broken=True)
    assert [scores.file for scores in found.images] == ["0802.png"]
    (skipped,) = found.to_json()["skipped"]
    assert skipped["file"] == "0801.png"
    assert str(path) in skipped["reason"]
    (folders[broken] / "0802.png").write_bytes(b"")
    with pytest.raises(UsageError, match="no picture is left"):
        judged(folders["sr"], folders["hr"], "psnr", **choices, skip_broken=True)


class Together(Bicubic):
    """Paints all samples of an image in one call, which leave a mark of it."""

    def upscale_samples(self, image: Picture, scale: int, *, seeds: Sequence[int]) -> list[Picture]:
        return [self.upscale(image, scale, seed=seed) ^ np.uint8(128) for seed in seeds]


def painted(tmp_path: Path, pipeline: str, source: Path, samples: int) -> list[Path]:
    request = Request(
        pipeline=f"tests.{pipeline}",
        options=BicubicOptions(),
        files=plan_samples(source, tmp_path / "out", samples, 5),
        scale=2,
        seed=5,
        device="cpu",
        precision=Precision.FP32,
    )
    weights = WeightsSource(tmp_path, "mini", "0", synthetic=True)
    return list(upscale_files(request, weights, lambda _: None))


@pytest.mark.parametrize(
    ("pipeline", "mark"),
    [("fixtures_pipelines:Bicubic", 0), ("unit.test_evaluate_srdiff:Together", 128)],
)
def test_samples_have_seeds_and_folders_of_their_own(
    pipeline: str, mark: int, tmp_path: Path, photos: dict[str, Picture]
) -> None:
    source = save(tmp_path / "in", {"a": photos["0801"]}, "{}.bmp")
    written = painted(tmp_path, pipeline, source, 3)
    names = [f"sample-{number:04d}/a.png" for number in range(3)]
    assert [str(path.relative_to(tmp_path / "out")) for path in written] == names
    alone = Bicubic(BicubicOptions())
    for seed, path in enumerate(written, start=5):
        expected = alone.upscale(photos["0801"], 2, seed=seed) ^ np.uint8(mark)
        assert np.array_equal(read_image(path), expected)


def test_samples_that_would_be_mixed_up_are_refused(
    tmp_path: Path, photos: dict[str, Picture]
) -> None:
    source = save(tmp_path / "in", photos)
    plan_samples(source, tmp_path / "out", 3, 0)
    with pytest.raises(UsageError, match="sample-0002: of an earlier run"):
        plan_samples(source, tmp_path / "out", 2, 0)
    with pytest.raises(UsageError, match="name a folder"):
        plan_samples(source / "0801.png", tmp_path / "one.png", 2, 0)
    with pytest.raises(UsageError, match="no room for 2 seeds"):
        plan_samples(source, tmp_path / "x", 2, MAX_SEED)
    save(source, photos, "{}.bmp")
    with pytest.raises(UsageError, match=r"0801\.bmp and 0801\.png would both become 0801\.png"):
        plan_samples(source, tmp_path / "x", 2, 0)
