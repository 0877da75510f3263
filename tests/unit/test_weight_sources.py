"""Which weights are taken, and that equal weights have equal digests."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipelines.contract import PipelineError
from pipelines.s3diff import weight_sources
from pipelines.s3diff.weight_sources import MINI, file_hashes, resolve_weights, weight_files


@pytest.fixture(autouse=True)
def own_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SRBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))


def make_folder(folder: Path, content: bytes = b"x") -> Path:
    for name in (
        *weight_sources.S3DIFF_FILES,
        *(f"sd-turbo/{n}" for n in weight_sources.SNAPSHOT_FILES),
        "sd-turbo/unet/diffusion_pytorch_model.safetensors",
        "sd-turbo/vae/diffusion_pytorch_model.safetensors",
        "sd-turbo/text_encoder/model.safetensors",
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def make_hub(hub: Path) -> None:
    """The layout of the hub's cache: snapshots of symlinks to blobs."""
    whole = make_folder(hub / "blobs")
    turbo = hub / "models--stabilityai--sd-turbo"
    s3diff = hub / "models--zhangap--S3Diff"
    for root, revision in ((turbo, "a" * 40), (s3diff, "b" * 40)):
        (root / "refs").mkdir(parents=True)
        (root / "refs" / "main").write_text(revision)
        (root / "snapshots" / revision).mkdir(parents=True)
    for part in ("unet", "vae", "text_encoder", "tokenizer"):
        (turbo / "snapshots" / ("a" * 40) / part).symlink_to(whole / "sd-turbo" / part)
    for name in weight_sources.S3DIFF_FILES:
        (s3diff / "snapshots" / ("b" * 40) / name).symlink_to(whole / name)


def test_the_option_wins_over_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = make_folder(tmp_path / "one"), make_folder(tmp_path / "two")
    monkeypatch.setenv("SRBENCH_WEIGHTS", str(two))
    assert resolve_weights(str(one), "cpu").path == one
    assert resolve_weights(None, "cpu").path == two
    assert resolve_weights(None, "cpu").kind == "folder"


def test_a_complete_hub_cache_is_used(tmp_path: Path) -> None:
    make_hub(tmp_path / "hub")
    source = resolve_weights(None, "cpu")
    assert not source.synthetic
    assert all(path.is_file() for path in weight_files(source.path))
    assert resolve_weights(None, "cpu") == source


def test_an_incomplete_hub_cache_is_not(tmp_path: Path) -> None:
    make_hub(tmp_path / "hub")
    (tmp_path / "hub" / "blobs" / "s3diff.pkl").unlink()
    assert weight_sources.hub_snapshot() is None


def test_digest_follows_the_contents_not_the_place(tmp_path: Path) -> None:
    one = resolve_weights(str(make_folder(tmp_path / "one")), "cpu")
    copy = resolve_weights(str(make_folder(tmp_path / "copy")), "cpu")
    other = resolve_weights(str(make_folder(tmp_path / "other", b"y")), "cpu")
    assert one.digest == copy.digest != other.digest


def test_a_changed_file_is_hashed_again(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "one")
    before = file_hashes(folder)
    (folder / "s3diff.pkl").write_bytes(b"another")
    after = file_hashes(folder)
    assert before["s3diff.pkl"] != after["s3diff.pkl"]
    assert before["de_net.pth"] == after["de_net.pth"]


def test_hashes_are_remembered(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "one")
    before = file_hashes(folder)
    path = folder / "s3diff.pkl"
    status = path.stat()
    path.write_bytes(b"z")  # same size; with the old time it cannot be told apart
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_hashes(folder) == before


def test_missing_folder_and_missing_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PipelineError, match="no such weights folder; give"):
        resolve_weights(str(tmp_path / "no"), "cpu")
    monkeypatch.setenv("SRBENCH_WEIGHTS", str(tmp_path / "no"))
    with pytest.raises(PipelineError, match="from SRBENCH_WEIGHTS"):
        resolve_weights(None, "cpu")
    folder = make_folder(tmp_path / "part")
    (folder / "sd-turbo/tokenizer/vocab.json").unlink()
    with pytest.raises(PipelineError, match=r"vocab\.json: missing"):
        resolve_weights(str(folder), "cpu")


def test_two_racing_processes_share_one_mini(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda _: resolve_weights("mini", "cpu"), range(2))
    assert first == second
    assert first.kind == "mini"
    assert not first.synthetic
    assert first.digest == hashlib.sha256(MINI.read_bytes()).hexdigest()
    assert len(weight_files(first.path)) == 10
    assert [p.name for p in first.path.parent.iterdir() if p.name.startswith(".writing")] == []


def test_an_unwritable_cache_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SRBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(PipelineError, match="point SRBENCH_CACHE to a folder"):
        resolve_weights("mini", "cpu")


def test_a_full_disk_is_found_before_writing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_sources, "_FULL_BYTES", 10**18)
    with pytest.raises(PipelineError, match="GB are free"):
        resolve_weights("synthetic", "cpu")


def test_resolving_imports_no_torch(project_root: Path) -> None:
    code = (
        "import sys; import pipelines.s3diff.weight_sources, pipelines.s3diff.recipe as r;"
        "r.recipe('full').digest; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=project_root).returncode == 0
