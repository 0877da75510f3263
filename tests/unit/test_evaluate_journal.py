"""Evaluations that go on where they were killed, FID, and the published protocol's values."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from skimage import data

from pipelines.s3diff.evaluate import summary
from srbench.errors import UsageError
from srbench.fidelity.evaluate import Evaluation, evaluate, open_bench
from srbench.fidelity.frechet import frechet_distance, inception_features
from srbench.fidelity.journal import NAME, Journal
from srbench.fidelity.plan import Question, make_plan
from srbench.images import read_image, write_image
from srbench.metrics_weights import why_missing

REALSR = Path(__file__).parents[3] / "shared/data/realsr"
METRICS = ("psnr_rgb", "ssim_skimage", "piqe")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    for folder, noise in (("sr", 8), ("hr", 0)):
        (tmp_path / folder).mkdir()
        for index in range(3):
            crop = data.astronaut()[40 * index :, 100:][:64, :64].astype(int)
            noisy = crop + rng.integers(-noise, noise + 1, crop.shape)
            write_image(tmp_path / folder / f"{index}.png", noisy.clip(0, 255).astype(np.uint8))
    return tmp_path / "sr", tmp_path / "hr"


def judged(folders: tuple[Path, Path], out: Path) -> tuple[Evaluation, int]:
    """An evaluation, and how many values it had to measure."""
    plan = make_plan(Question(*folders, METRICS))
    with Journal.open(out) as journal:
        before = lines_of(out)
        found = evaluate(plan, open_bench(journal=journal))
    return found, lines_of(out) - before


def lines_of(out: Path) -> int:
    return len((out / NAME).read_text().splitlines())


def test_a_killed_evaluation_goes_on(folders: tuple[Path, Path], tmp_path: Path) -> None:
    whole, measured = judged(folders, tmp_path / "out")
    assert measured == 9
    journal = tmp_path / "out" / NAME
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:5]) + lines[5][:-9])  # killed in the middle of a line
    again, measured = judged(folders, tmp_path / "out")
    assert measured == 5
    assert again.to_json() == whole.to_json()
    assert judged(folders, tmp_path / "out")[1] == 0


def test_only_what_changed_is_measured_anew(folders: tuple[Path, Path], tmp_path: Path) -> None:
    first, _ = judged(folders, tmp_path / "out")
    sr, hr = folders
    (sr / "0.png").rename(sr / "renamed.png")
    (hr / "0.png").rename(hr / "renamed.png")
    assert judged(folders, tmp_path / "out")[1] == 0  # the same contents
    write_image(hr / "1.png", read_image(hr / "1.png")[::-1].copy())
    changed, measured = judged(folders, tmp_path / "out")
    assert measured == 2  # piqe does not look at the reference
    assert changed.images[0].metrics["psnr_rgb"] != first.images[1].metrics["psnr_rgb"]
    assert changed.images[0].metrics["piqe"] == first.images[1].metrics["piqe"]


def test_journals_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"), Journal.open(tmp_path / "file"):
        pass
    for content, said in (
        (b'{"kind": "measurements", "schema_version": 2}\n', "no journal of this srbench's"),
        (b'{"kind": "srbench-run"}\n', "line 1 is damaged"),
        (b'metric,value\n{"kind": 1}\n', "line 1 is damaged"),
        (b"a note of mine, without an end of line", "line 1 is damaged"),
        (b'{"note": "without an end of line"}', "line 1 is damaged"),
        (b'{"kind": "measurements", "schema_version": 1}\n{"key": 1}\n', "line 2 is damaged"),
    ):
        (tmp_path / NAME).write_bytes(content)
        with pytest.raises(UsageError, match=said), Journal.open(tmp_path):
            pass
        assert (tmp_path / NAME).read_bytes() == content
    (tmp_path / NAME).unlink()
    with (
        Journal.open(tmp_path),
        pytest.raises(UsageError, match="another srbench process"),
        Journal.open(tmp_path),
    ):
        pass


def test_frechet_distance_is_that_of_the_matrix_root() -> None:
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(40, 6)), rng.normal(0.3, 1.5, size=(60, 6))
    a, b = (np.cov(features, rowvar=False) for features in (ours, theirs))
    shift = ours.mean(0) - theirs.mean(0)
    expected = shift @ shift + np.trace(a + b - 2 * np.real(sqrtm(a @ b)))
    assert frechet_distance(ours, theirs) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(ours, ours[::-1]) == pytest.approx(0, abs=1e-9)
    few, more = rng.normal(size=(3, 50)), rng.normal(size=(4, 50))  # both covariances singular
    assert frechet_distance(few, more) > 0
    with pytest.raises(ValueError, match="two pictures"):
        frechet_distance(few[:1], few)


def test_pictures_of_any_size_reach_the_network_centred() -> None:
    class Seen(torch.nn.Module):
        def forward(self, x: torch.Tensor, resize: bool, normalize: bool) -> list[torch.Tensor]:
            assert not resize
            assert not normalize
            assert x.shape[1:] == (3, 299, 299)
            return [x.mean((2, 3), keepdim=True)]

    sides = [(64, 80)] * 17 + [(300, 310)]
    pictures: list[NDArray[np.uint8]] = [
        np.full((*side, 3), 10 * index, np.uint8) for index, side in enumerate(sides)
    ]
    found = inception_features(Seen(), pictures, "cpu")
    assert found.shape == (18, 3)
    assert found[:, 0] == pytest.approx((10 * np.arange(18) - 128) / 128, abs=1e-5)


def test_the_published_summary_has_five_decimals() -> None:
    document = {
        "images": [{"file": "a.png", "metrics": {}, "not_measured": {"musiq": "no weights"}}],
        "mean": {"psnr": 25.7937264, "musiq": None},
        "folders": {"metrics": {"fid": 123.456}, "not_measured": {}},
    }
    assert summary(document) == ("psnr: 25.79373\nmusiq: not measured: no weights\nfid: 123.46\n")


@pytest.mark.skipif(not REALSR.is_dir(), reason="needs ../shared/data/realsr")
@pytest.mark.skipif(
    any(why_missing(metric) for metric in ("lpips", "dists", "niqe")),
    reason="needs `srbench weights fetch --metrics` (a network)",
)
def test_published_outputs_have_the_values_their_authors_logged(tmp_path: Path) -> None:
    limits = {"psnr": 1e-4, "ssim": 1e-5, "lpips": 1e-4, "dists": 1e-4, "niqe": 0.02}
    with (REALSR / "osediff_metrics.csv").open() as file:
        published = {row["file"]: row for row in csv.DictReader(file)}
    name = "Canon_002_LR4.png"
    for folder, source in (("sr", "osediff"), ("hr", "hr")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).symlink_to(REALSR / source / name)
    found = evaluate(make_plan(Question(tmp_path / "sr", tmp_path / "hr", tuple(limits))))
    for metric, limit in limits.items():
        expected = float(published[name][metric.upper()])
        assert found.images[0].metrics[metric] == pytest.approx(expected, abs=limit)
    json.dumps(found.to_json(), allow_nan=False)
