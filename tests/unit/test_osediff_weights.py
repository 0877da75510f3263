"""Reading OSEDiff's weights folders: what is right is read, what is wrong is one line."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.contract import PipelineError, WeightsSource
from pipelines.osediff.architecture import Architecture
from pipelines.osediff.options import BaselineOptions
from pipelines.osediff.prompt_embedding import read_embedding
from pipelines.osediff.synthesize import synthesize
from pipelines.osediff.weight_sources import file_hashes, resolve_weights
from pipelines.osediff.weights import Checkpoint, check_folder, expected_tensors, read_checkpoint
from pipelines.s3diff.recipe import recipe
from pipelines.s3diff.synthesize import synthesize as synthesize_s3diff
from pipelines.s3diff.weight_sources import resolve_weights as resolve_s3diff
from pipelines.s3diff.weights import check_folder as check_s3diff
from tests.golden.osediff_recipe import as_passionsr

ADAPTERS = "osediff.pkl"
TO_OUT = "mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"


@pytest.fixture(scope="module")
def s3diff(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("s3diff") / "weights"
    synthesize_s3diff(folder, recipe("small"))
    return folder


@pytest.fixture(scope="module")
def good(s3diff: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "weights"
    synthesize(s3diff, folder, recipe("small"))
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    copy = tmp_path / "weights"
    copy.mkdir()
    (copy / "sd-turbo").symlink_to((good / "sd-turbo").resolve())
    shutil.copy(good / ADAPTERS, copy)
    return copy


def read(folder: Path) -> Checkpoint:
    return read_checkpoint(WeightsSource(folder, "folder", "", synthetic=False))


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = torch.load(folder / ADAPTERS, weights_only=True)
    change(content)
    torch.save(content, folder / ADAPTERS)


def test_a_good_folder_has_no_problem(good: Path) -> None:
    assert check_folder(good) == []
    checkpoint = read(good)
    pair = checkpoint.unet_lora[TO_OUT]
    assert (pair.down.shape, pair.up.shape) == ((4, 64), (64, 4))
    assert checkpoint.vae_lora["quant_conv"].up.shape == (8, 4, 1, 1)
    assert "encoder.down_blocks.0.downsamplers.0.conv" in checkpoint.vae_lora
    assert not any(path.startswith(("decoder", "post_quant")) for path in checkpoint.vae_lora)
    assert not any("time_emb" in path for path in checkpoint.unet_lora)
    assert len(checkpoint.unet_lora) == 257


def test_conv_in_is_the_trained_one(good: Path) -> None:
    trained = torch.load(good / ADAPTERS, weights_only=True)["state_dict_unet"]
    weight = read(good).unet["conv_in.weight"]
    assert torch.equal(weight, trained["conv_in.base_layer.weight"])


def test_the_published_architecture_has_the_published_numbers() -> None:
    """94, 148 and 16 layers of the UNet, 32 of the VAE, 4.437 million trained parameters."""
    architecture = Architecture.published()
    assert [len(layers) for layers in architecture.unet_layers] == [94, 148, 16]
    assert len(architecture.vae_layers) == 32
    shapes = expected_tensors(architecture)
    sizes = {
        group: sum(torch.Size(shape).numel() for shape in shapes[group].values())
        for group in ("adapters_unet", "adapters_vae")
    }
    assert sum(sizes.values()) == pytest.approx(4.437e6, abs=1e3)
    assert sizes["adapters_vae"] == pytest.approx(0.369e6, abs=1e3)


def test_both_spellings_and_repeated_names_read_alike(folder: Path, good: Path) -> None:
    content = torch.load(folder / ADAPTERS, weights_only=True)
    content["vae_lora_encoder_modules"] += ["quant_conv"] * 33
    (folder / ADAPTERS).unlink()
    torch.save(as_passionsr(content), folder / "osediff.ckpt")
    ours, theirs = read(folder), read(good)
    for group in ("unet_lora", "vae_lora"):
        found, wanted = getattr(ours, group), getattr(theirs, group)
        assert found.keys() == wanted.keys()
        assert all(torch.equal(found[path].up, wanted[path].up) for path in wanted)
    assert ours.architecture == theirs.architecture


def test_conv_in_without_an_adapter(folder: Path) -> None:
    def plain(content: dict[str, Any]) -> None:
        content["unet_lora_encoder_modules"].remove("conv_in")
        tensors = content["state_dict_unet"]
        for kind in ("weight", "bias"):
            tensors[f"conv_in.{kind}"] = tensors.pop(f"conv_in.base_layer.{kind}") + 1
        for letter in "AB":
            del tensors[f"conv_in.lora_{letter}.default_encoder.weight"]

    before = read(folder).unet["conv_in.bias"]
    edit(folder, plain)
    checkpoint = read(folder)
    assert "conv_in" not in checkpoint.unet_lora
    assert torch.equal(checkpoint.unet["conv_in.bias"], before + 1)


def test_a_malicious_pickle_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    proof = tmp_path / "ran"

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(proof),))

    torch.save({"rank_unet": Malicious()}, folder / ADAPTERS)
    with pytest.raises(PipelineError, match=r"osediff\.pkl: refused") as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    assert not proof.exists()


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (Path.unlink, r"osediff\.pkl: missing; a weights folder of OSEDiff holds"),
        (_truncate, r"osediff\.pkl: truncated"),
        (lambda path: path.write_bytes(b""), r"osediff\.pkl: the file is empty"),
        (lambda path: torch.save([1], path), r"osediff\.pkl: holds a list"),
        (lambda path: torch.save({"state_dict": {}}, path), "another model, not of OSEDiff"),
    ],
)
def test_bad_files_are_one_line(folder: Path, damage: Callable[[Path], Any], said: str) -> None:
    damage(folder / ADAPTERS)
    (problem,) = check_folder(folder)
    with pytest.raises(PipelineError, match=said):
        read(folder)
    assert "\n" not in problem


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda c: c["state_dict_unet"].pop(f"{TO_OUT}.lora_A.default_others.weight"),
            f"1 of 516 tensors missing: {TO_OUT}.lora_A.default_others.weight",
        ),
        (
            lambda c: c["unet_lora_others_modules"].remove(TO_OUT),
            f"2 of 514 tensors unexpected: {TO_OUT}.lora_A.default_others.weight",
        ),
        (lambda c: c.update(rank_vae=5), "62 of 62 tensors of the wrong shape: encoder.conv_in."),
        (
            lambda c: c["unet_lora_others_modules"].append("mid_block.resnets.7.conv1"),
            "the adapters' lists name mid_block.resnets.7.conv1",
        ),
        (
            lambda c: c["unet_lora_others_modules"].append("conv_out"),
            "conv_out is in unet_lora_decoder_modules and in unet_lora_others_modules",
        ),
        (lambda c: c["vae_lora_encoder_modules"].append(3), "holds 3 among its names"),
        (lambda c: c.update(rank_unet=0), "rank_unet is 0"),
        (lambda c: c.pop("vae_lora_encoder_modules"), "lacks vae_lora_encoder_modules"),
    ],
)
def test_wrong_contents_are_named(
    folder: Path, change: Callable[[dict[str, Any]], Any], said: str
) -> None:
    edit(folder, change)
    problems = check_folder(folder)
    assert len(problems) == 1
    assert said in problems[0]
    assert str(folder) in problems[0]


def test_folders_of_s3diff_and_osediff_are_told_apart(
    folder: Path, s3diff: Path, good: Path, tmp_path: Path
) -> None:
    with pytest.raises(PipelineError, match="is of S3Diff"):
        resolve_weights(str(s3diff), "cpu")
    assert any("is of S3Diff" in line for line in check_folder(s3diff))
    shutil.copy(s3diff / "s3diff.pkl", folder / ADAPTERS)
    with pytest.raises(PipelineError, match="checkpoint of S3Diff, not of OSEDiff"):
        read(folder)
    with pytest.raises(PipelineError, match=r"osediff\.pkl beside it is of OSEDiff"):
        resolve_s3diff(str(good), "cpu")
    other = tmp_path / "s3diff"
    shutil.copytree(s3diff, other)
    shutil.copy(good / ADAPTERS, other / "s3diff.pkl")
    assert "checkpoint of OSEDiff, not of S3Diff" in check_s3diff(other)[0]


def test_identity_follows_the_contents(folder: Path, good: Path) -> None:
    assert resolve_weights(str(folder), "cpu").digest == resolve_weights(str(good), "cpu").digest
    edit(folder, lambda c: c["state_dict_unet"]["conv_in.base_layer.bias"].add_(1))
    assert resolve_weights(str(folder), "cpu").digest != resolve_weights(str(good), "cpu").digest
    assert ADAPTERS in file_hashes(folder)


def test_missing_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "no such folder" in check_folder(tmp_path / "no")[0]
    monkeypatch.setenv("SRBENCH_WEIGHTS", str(tmp_path / "no"))
    with pytest.raises(PipelineError, match="from SRBENCH_WEIGHTS"):
        resolve_weights(None, "cpu")


def test_resolving_imports_no_torch(project_root: Path) -> None:
    code = (
        "import sys; import pipelines.osediff.weight_sources, pipelines.osediff.options;"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=project_root).returncode == 0


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_prompt_embeddings(tmp_path: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    def write(tensor: torch.Tensor) -> Path:
        path = tmp_path / f"embedding{suffix}"
        if suffix == ".pt":
            torch.save(tensor, path)
        else:
            save_file({"text": tensor}, path)
        return path

    embedding = torch.randn(1, 77, 48)
    assert torch.equal(read_embedding(write(embedding), 48), embedding)
    with pytest.raises(PipelineError, match=r"a tensor \[1, 77, 48\] where .* \[1, 77, 1024\]"):
        read_embedding(write(embedding), 1024)
    with pytest.raises(PipelineError, match="not finite"):
        read_embedding(write(embedding / 0), 48)
    with pytest.raises(PipelineError, match="no such file; give a prompt"):
        read_embedding(tmp_path / f"no{suffix}", 48)


def test_a_prompt_and_an_embedding_exclude_each_other() -> None:
    with pytest.raises(PipelineError, match="leave out one of the two"):
        BaselineOptions(prompt="a photo", prompt_embedding="empty.pt")
