"""Comparing pictures: values, worst block, what cannot be measured, and who measured it."""

from __future__ import annotations

import base64
import io
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from srbench.errors import UsageError
from srbench.fidelity.blocks import ErrorMap, WorstBlock, flat_blocks
from srbench.fidelity.compare import Output, as_tensor, compare_outputs
from srbench.fidelity.evaluate import Evaluation, evaluate, open_bench
from srbench.fidelity.metrics import METRICS, parse_metrics
from srbench.fidelity.plan import Question, make_plan
from srbench.fidelity.providers import open_provider
from srbench.fidelity.repeats import digest, paint_again
from srbench.images import write_image
from srbench.records import FidelityRecord

Picture = NDArray[np.uint8]


@pytest.fixture(scope="module")
def photo() -> Picture:
    pixels: Picture = data.astronaut()[:256, 100:356]
    return np.ascontiguousarray(pixels)


@pytest.fixture
def noisy(photo: Picture) -> Picture:
    noise = np.random.default_rng(0).integers(-9, 10, photo.shape)
    return np.clip(photo.astype(int) + noise, 0, 255).astype(np.uint8)


def psnr(a: NDArray[Any], b: NDArray[Any], peak: float) -> float:
    return float(10 * np.log10(peak**2 / np.mean((a.astype(float) - b.astype(float)) ** 2)))


def worst_block(reference: Picture, candidate: Picture) -> WorstBlock:
    return ErrorMap(reference, candidate).worst_block()


def luma(picture: Picture) -> NDArray[np.float64]:
    return np.asarray((picture @ np.array([65.481, 128.553, 24.966])) / 255 + 16)


def in_floats(picture: Picture) -> NDArray[np.float32]:
    return picture.astype(np.float32) / np.float32(255)


def judge(reference: Output | Picture, candidate: Output | Picture) -> FidelityRecord:
    theirs, ours = (
        output if isinstance(output, Output) else Output(output)
        for output in (reference, candidate)
    )
    lr = theirs.picture[::4, ::4]
    return compare_outputs("64x64x4", "ours", "theirs", theirs, ours, "cpu", lr)


@pytest.mark.parametrize("name", ["pyiqa", "torchmetrics"])
def test_psnr_is_on_studio_range_luma_or_rgb(name: str, photo: Picture, noisy: Picture) -> None:
    provider = open_provider(name, "cpu")
    ours, theirs = as_tensor(noisy), as_tensor(photo)
    y, rgb = (provider.measure(m, ours, theirs) for m in ("psnr", "psnr_rgb"))
    assert y.value == pytest.approx(psnr(luma(noisy), luma(photo), 255), abs=1e-3)
    assert rgb.value == pytest.approx(psnr(noisy, photo, 255), abs=1e-3)
    assert y.provider.startswith(f"{name} ")
    assert "BT.601" in y.provider


@pytest.mark.parametrize("name", ["pyiqa", "torchmetrics"])
def test_equal_pictures_read_80_db_and_1(name: str, photo: Picture) -> None:
    provider = open_provider(name, "cpu")
    same = as_tensor(photo)
    assert provider.measure("psnr", same, same).value == pytest.approx(80, abs=1e-3)
    assert provider.measure("ssim", same, same).value == pytest.approx(1, abs=1e-6)


def test_the_two_providers_agree_about_ssim(photo: Picture, noisy: Picture) -> None:
    pair = as_tensor(noisy), as_tensor(photo)
    for metric in ("ssim", "ssim_rgb"):
        values = [
            open_provider(n, "cpu").measure(metric, *pair).value for n in ("pyiqa", "torchmetrics")
        ]
        assert values[0] == pytest.approx(values[1], abs=0.01)
        assert values[0] is not None
        assert values[0] < 0.95


def test_metrics_that_need_no_weights(photo: Picture, noisy: Picture) -> None:
    provider = open_provider("pyiqa", "cpu")
    for metric in ("ms_ssim", "gmsd"):
        good = provider.measure(metric, as_tensor(photo), as_tensor(photo)).value
        bad = provider.measure(metric, as_tensor(noisy), as_tensor(photo)).value
        assert good is not None
        assert bad is not None
        assert (good > bad) == METRICS[metric].higher_is_better


def test_a_metric_without_weights_says_why(
    tmp_path: Path, photo: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRBENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    same = as_tensor(photo)
    found = open_provider("pyiqa", "cpu").measure("lpips", same, same)
    assert found.value is None
    assert "srbench weights fetch --metrics" in (found.reason or "")
    found = open_provider("torchmetrics", "cpu").measure("vif", same, same)
    assert found.value is None
    assert "psnr, ssim, lpips and dists only" in (found.reason or "")


def test_names_are_checked() -> None:
    assert parse_metrics(" psnr, ssim,psnr") == ["psnr", "ssim"]
    with pytest.raises(UsageError, match="Did you mean 'lpips'"):
        parse_metrics("psnr,lpisp")
    with pytest.raises(UsageError, match="no metric named"):
        parse_metrics(" , ")
    with pytest.raises(UsageError, match="Did you mean 'pyiqa'"):
        open_provider("pyiq", "cpu")


@pytest.mark.parametrize(("top", "left"), [(0, 0), (96, 64), (192, 192), (130, 7)])
def test_the_worst_block_is_found(photo: Picture, top: int, left: int) -> None:
    broken = photo.copy()
    region = broken[top : top + 64, left : left + 64]
    region[:] = 255 - region
    worst = worst_block(photo, broken)
    assert abs(worst.top - top) <= 16
    assert abs(worst.left - left) <= 16
    rows, columns = slice(worst.top, worst.top + 64), slice(worst.left, worst.left + 64)
    expected = psnr(photo[rows, columns], broken[rows, columns], 255)
    assert worst.psnr_db == pytest.approx(expected, abs=1e-4)
    assert worst.psnr_db < psnr(photo, broken, 255)


def test_blocks_reach_every_edge_and_small_pictures(photo: Picture) -> None:
    odd = photo[:101, :75]
    broken = odd.copy()
    broken[-1, -1] = 255 - broken[-1, -1]
    worst = worst_block(odd, broken)
    assert (worst.top, worst.left) == (101 - 64, 75 - 64)
    tiny = photo[:20, :30]
    assert worst_block(tiny, tiny).psnr_db == pytest.approx(80)


def test_a_record_of_two_pictures(photo: Picture, noisy: Picture) -> None:
    eps = np.random.default_rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32)
    floats = in_floats(photo)
    record = judge(
        Output(photo, floats, eps),
        Output(noisy, floats + np.float32(0.001), eps * np.float32(1.01)),
    )
    assert record.outcome == "ok"
    assert record.metrics["psnr"] == pytest.approx(psnr(photo, noisy, 255), abs=1e-3)
    assert record.metrics["psnr_float"] == pytest.approx(60, abs=1e-2)
    assert record.metrics["eps_relative_l2"] == pytest.approx(0.01, rel=1e-3)
    assert record.metrics["max_abs_diff"] == 9
    assert record.metrics["worst_block_psnr"] < record.metrics["psnr"]
    assert set(record.metrics) | set(record.not_measured) == {
        "psnr",
        "psnr_float",
        "ssim",
        "lpips",
        "worst_block_psnr",
        "worst_band_psnr",
        "flat_blocks",
        "eps_relative_l2",
        "max_abs_diff",
    }
    assert record.providers["psnr"].startswith("pyiqa ")
    assert not set(record.metrics) & set(record.not_measured)
    assert type(record).from_json(record.to_json()) == record


def decoded(record: FidelityRecord) -> dict[str, Picture]:
    return {
        name: np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))
        for name, text in record.crops.items()
    }


def test_crops_show_the_same_place(photo: Picture) -> None:
    large = np.tile(photo, (2, 1, 1))
    broken = large.copy()
    broken[400:464, 0:64] = 0
    images = decoded(judge(large, broken))
    assert {image.shape for image in images.values()} == {(256, 256, 3)}
    assert np.array_equal(images["baseline"], large[256:, :256])
    assert np.array_equal(images["candidate"], broken[256:, :256])
    assert np.array_equal(images["input"][::4, ::4], large[::4, ::4][64:, :64])


def test_a_small_picture_is_its_own_crop(photo: Picture, noisy: Picture) -> None:
    record = judge(photo, noisy)
    assert np.array_equal(decoded(record)["candidate"], noisy)
    assert sum(map(len, record.crops.values())) < 600_000
    output = Output(photo)
    assert compare_outputs("64x64x4", "ours", "theirs", output, output, "cpu").crops == {}


@pytest.mark.parametrize("across", [False, True])
def test_a_seam_cannot_hide_between_blocks(photo: Picture, across: bool) -> None:
    for start in range(40, 140, 7):
        broken = photo.copy()
        seam = broken[:, start : start + 4] if across else broken[start : start + 4]
        seam[:] = seam // 2
        errors = ErrorMap(photo, broken)
        whole = psnr(photo, broken, 255)
        band, block = errors.worst_band(), errors.worst_block()
        assert band.psnr_db < block.psnr_db - 4
        assert block.psnr_db < whole - 4
        first = band.left if across else band.top
        assert first <= start <= first + 16


def test_worst_band_is_that_of_all_bands(photo: Picture, noisy: Picture) -> None:
    photo, noisy = photo[:120, :90], noisy[:120, :90]
    values = [
        psnr(photo[y : y + h, x : x + w], noisy[y : y + h, x : x + w], 255)
        for h, w, down, right in ((16, 64, 8, 32), (64, 16, 32, 8))
        for y in {*range(0, 120 - h + 1, down), 120 - h}
        for x in {*range(0, 90 - w + 1, right), 90 - w}
    ]
    assert ErrorMap(photo, noisy).worst_band().psnr_db == pytest.approx(min(values), abs=1e-3)


def test_flat_blocks_are_those_that_only_the_candidate_has(photo: Picture) -> None:
    sky = photo.copy()
    sky[:64, :128] = (200, 210, 255)
    assert flat_blocks(sky, sky) == 0
    assert flat_blocks(photo, photo) == 0
    lost = sky.copy()
    lost[128:192, 128:256] = 127
    assert flat_blocks(sky, lost) == 3
    assert flat_blocks(lost, sky) == 0
    assert judge(sky[96:, 96:], lost[96:, 96:]).metrics["flat_blocks"] == 3
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[:, None, None], 64, axis=1).repeat(3, axis=2)
    assert flat_blocks(ramp, np.full_like(ramp, 9)) == 1
    assert flat_blocks(ramp.transpose(1, 0, 2), ramp) == 0


def test_the_worst_of_several_repeats_is_kept(photo: Picture) -> None:
    near, far = photo.copy(), photo.copy()
    near[0, 0] ^= 1
    far[0, 0] ^= 128
    found = paint_again(iter([photo, far, near, photo]).__next__, photo)
    assert found.distinct == 3
    assert found.worst is far
    assert paint_again(photo.copy, photo).distinct == 1
    assert paint_again(photo.copy, photo).worst is None
    assert digest(near) != digest(far)


def test_floats_of_equal_pictures_are_capped_at_160_db(photo: Picture) -> None:
    photo = photo[:96, :96]
    floats = in_floats(photo)
    record = judge(Output(photo, floats), Output(photo, floats))
    assert record.metrics["psnr_float"] == pytest.approx(160)
    assert record.metrics["max_abs_diff"] == 0
    assert "eps_relative_l2" in record.not_measured


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["picture_float", "eps"])
def test_nan_and_infinity_are_no_comparison(photo: Picture, where: str, value: float) -> None:
    bad = np.zeros((4, 4, 3), np.float32)
    bad[1, 2, 0] = value
    broken: dict[str, Any] = {where: bad}
    record = judge(photo, replace(Output(photo), **broken))
    assert record.outcome == "invalid"
    assert "ours computed NaN" in (record.reason or "")
    assert record.metrics == {}


def test_flat_and_differently_sized_pictures_are_no_comparison(photo: Picture) -> None:
    flat = np.full_like(photo, 127)
    assert "picture of ours is one flat colour" in (judge(photo, flat).reason or "")
    assert "picture of theirs is one flat colour" in (judge(flat, photo).reason or "")
    assert "differ in size" in (judge(photo, photo[:-1]).reason or "")


def test_eps_of_another_size_is_not_measured(photo: Picture) -> None:
    photo, ones = photo[:96, :96], np.ones(9, np.float32)
    record = judge(Output(photo, eps=ones[:8]), Output(photo, eps=ones))
    assert "8 values" in record.not_measured["eps_relative_l2"]


def judged(folder: Path, *metrics: str, provider: str = "pyiqa") -> Evaluation:
    plan = make_plan(Question(folder / "sr", folder / "hr", metrics))
    return evaluate(plan, open_bench(provider=provider))


def test_evaluate_pairs_by_stem_and_averages(
    tmp_path: Path, photo: Picture, noisy: Picture
) -> None:
    for folder in ("sr", "hr"):
        (tmp_path / folder).mkdir()
    write_image(tmp_path / "sr/a.png", noisy)
    write_image(tmp_path / "hr/a.bmp", photo)
    write_image(tmp_path / "sr/b.png", photo)
    write_image(tmp_path / "hr/b.png", photo)
    found = judged(tmp_path, "psnr", "ssim")
    assert [scores.file for scores in found.images] == ["a.png", "b.png"]
    first, second = (scores.metrics["psnr"] or 0.0 for scores in found.images)
    assert 0 < first < 50
    assert second == pytest.approx(80, abs=1e-3)
    assert found.mean["psnr"] == pytest.approx((first + second) / 2)
    document = found.to_json()
    assert {"images", "mean", "providers"} < set(document)
    assert (document["samples"], document["cropped"], document["skipped"]) == (1, 0, [])


def test_a_mean_over_unmeasured_pictures_is_null(tmp_path: Path, photo: Picture) -> None:
    for folder in ("sr", "hr"):
        (tmp_path / folder).mkdir()
        write_image(tmp_path / folder / "a.png", photo)
    found = judged(tmp_path, "vif", provider="torchmetrics")
    assert found.mean == {"vif": None}
    assert "vif" in found.images[0].not_measured


def test_evaluate_refuses_what_does_not_pair(tmp_path: Path, photo: Picture) -> None:
    sr, hr = tmp_path / "sr", tmp_path / "hr"
    sr.mkdir()
    hr.mkdir()
    with pytest.raises(UsageError, match="no image"):
        judged(tmp_path, "psnr")
    write_image(sr / "a.png", photo)
    write_image(hr / "b.png", photo)
    with pytest.raises(UsageError, match=r"no picture for a\.png"):
        judged(tmp_path, "psnr")
    write_image(hr / "a.png", photo[:-2])
    (hr / "b.png").unlink()
    with pytest.raises(UsageError, match="equal sizes"):
        judged(tmp_path, "psnr")
    write_image(hr / "a.bmp", photo)
    with pytest.raises(UsageError, match="same stem"):
        judged(tmp_path, "psnr")
