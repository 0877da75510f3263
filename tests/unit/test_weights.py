"""Reading weights folders: what is right is read, what is wrong is one line."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.contract import PipelineError, WeightsSource
from pipelines.s3diff.expected import expected_tensors, meta_networks
from pipelines.s3diff.recipe import recipe, small_architecture
from pipelines.s3diff.synthesize import synthesize
from pipelines.s3diff.weights import Checkpoint, check_folder, read_checkpoint

UNET = "sd-turbo/unet/diffusion_pytorch_model.safetensors"
VAE = "sd-turbo/vae/diffusion_pytorch_model.safetensors"
TEXT = "sd-turbo/text_encoder/model.safetensors"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("good") / "weights"
    synthesize(folder, recipe("small"))
    return folder


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return shutil.copytree(good, tmp_path / "weights")


def read(folder: Path) -> Checkpoint:
    return read_checkpoint(WeightsSource(folder, "folder", "", synthetic=False))


def edit_pickle(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)


def test_a_good_folder_has_no_problem_and_loads_strictly(good: Path) -> None:
    assert check_folder(good) == []
    checkpoint = read(good)
    assert checkpoint.architecture == small_architecture()
    for name, network in meta_networks(checkpoint.architecture).items():
        network.load_state_dict(getattr(checkpoint, name), strict=True, assign=True)
    assert {t.dtype for t in checkpoint.unet.values()} == {torch.float32}
    assert (checkpoint.tokenizer_folder / "vocab.json").is_file()


def test_names_and_shapes_are_those_of_diffusers(good: Path) -> None:
    """Our own networks derive them, so that reading weights does not import diffusers."""
    from diffusers import AutoencoderKL, UNet2DConditionModel

    architecture = small_architecture()
    expected = expected_tensors(architecture)
    with torch.device("meta"):
        networks = {
            "unet": UNet2DConditionModel.from_config(architecture.unet),
            "vae": AutoencoderKL.from_config(architecture.vae),
        }
    for name, network in networks.items():
        shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
        assert shapes == expected[name]


def test_conv_in_is_the_trained_one(good: Path) -> None:
    checkpoint = read(good)
    trained = torch.load(good / "s3diff.pkl", weights_only=True)["state_dict_unet"]
    assert torch.equal(checkpoint.unet["conv_in.weight"], trained["conv_in.weight"])
    assert not torch.equal(
        checkpoint.unet["conv_in.weight"], load_file(good / UNET)["conv_in.weight"]
    )


def test_adapters_are_keyed_by_layer(good: Path) -> None:
    checkpoint = read(good)
    pair = checkpoint.unet_lora["mid_block.attentions.0.transformer_blocks.0.attn1.to_out.0"]
    assert pair.down.shape == (8, 64)
    assert pair.up.shape == (64, 8)
    strided = checkpoint.vae_lora["encoder.down_blocks.0.downsamplers.0.conv"]
    assert strided.down.shape == (4, 16, 3, 3)
    assert strided.up.shape == (16, 4, 1, 1)


def test_an_fp16_snapshot_is_upcast(folder: Path) -> None:
    tensors = load_file(folder / UNET)
    half = {name: tensor.half() for name, tensor in tensors.items()}
    save_file(half, folder / UNET.replace(".safetensors", ".fp16.safetensors"))
    (folder / UNET).unlink()
    weight = read(folder).unet["conv_out.weight"]
    assert weight.dtype == torch.float32
    assert torch.equal(weight, tensors["conv_out.weight"].half().float())


def test_old_vae_attention_names_and_kernels_are_understood(folder: Path, good: Path) -> None:
    old_names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    old = {}
    for name, tensor in load_file(folder / VAE).items():
        renamed = name
        for new, former in old_names.items():
            renamed = renamed.replace(f"attentions.0.{new}.", f"attentions.0.{former}.")
        squeezed = renamed != name and tensor.dim() == 2
        old[renamed] = tensor[:, :, None, None].contiguous() if squeezed else tensor
    save_file(old, folder / VAE)
    assert "decoder.mid_block.attentions.0.query.weight" in old
    ours, theirs = read(folder).vae, read(good).vae
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_text_encoder_with_prefix_and_position_ids(folder: Path, good: Path) -> None:
    old: dict[str, torch.Tensor] = {
        f"text_model.{name.removeprefix('text_model.')}": tensor
        for name, tensor in load_file(folder / TEXT).items()
    }
    old["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(old, folder / TEXT)
    assert read(folder).text_encoder.keys() == read(good).text_encoder.keys()


def test_a_malicious_pickle_is_refused_and_not_run(folder: Path, tmp_path: Path) -> None:
    proof = tmp_path / "ran"

    class Malicious:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(proof),))

    for write in (
        lambda: torch.save({"w": Malicious()}, folder / "s3diff.pkl"),
        lambda: (folder / "s3diff.pkl").write_bytes(pickle.dumps(Malicious())),
    ):
        write()
        with pytest.raises(PipelineError, match=r"s3diff\.pkl: refused") as caught:
            read(folder)
        assert "\n" not in str(caught.value)
        assert not proof.exists()


@pytest.mark.parametrize("name", ["s3diff.pkl", "de_net.pth", UNET, VAE, TEXT])
def test_truncated_files_are_named(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    problems = check_folder(folder)
    assert len(problems) == 1
    assert problems[0].startswith(f"{path}: truncated")


@pytest.mark.parametrize("name", ["s3diff.pkl", "de_net.pth", UNET, "sd-turbo/vae/config.json"])
@pytest.mark.parametrize(("content", "said"), [(None, "missing"), (b"", "empty")])
def test_missing_and_empty_files_are_named(
    folder: Path, name: str, content: bytes | None, said: str
) -> None:
    path = folder / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert [said in line and str(path) in line for line in check_folder(folder)] == [True]


def test_all_problems_are_listed_at_once(folder: Path) -> None:
    (folder / "de_net.pth").unlink()
    (folder / "s3diff.pkl").write_text("version https://git-lfs.github.com/spec/v1\n")
    (folder / "sd-turbo/unet/config.json").write_text("{")
    problems = check_folder(folder)
    assert len(problems) == 3
    assert any("not a PyTorch checkpoint" in line for line in problems)
    with pytest.raises(PipelineError, match="and 2 more"):
        read(folder)


def test_checkpoints_of_other_models(folder: Path) -> None:
    torch.save({"state_dict": {}, "epoch": 3}, folder / "s3diff.pkl")
    assert "another model" in check_folder(folder)[0]
    assert "found state_dict, epoch" in check_folder(folder)[0]
    torch.save({"body.weight": torch.zeros(1)}, folder / "de_net.pth")
    assert len(check_folder(folder)) == 2
    torch.save([1, 2], folder / "de_net.pth")
    assert "holds a list" in check_folder(folder)[1]


def test_another_noise_schedule_is_refused(folder: Path) -> None:
    path = folder / "sd-turbo/scheduler/scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    (problem,) = check_folder(folder)
    assert "prediction_type is 'v_prediction'" in problem


def test_wrong_tensors_are_counted_and_named(folder: Path) -> None:
    def damage(content: dict[str, Any]) -> None:
        unet = content["state_dict_unet"]
        unet["extra"] = torch.zeros(2)
        del unet["conv_out.lora_A.default.weight"]
        unet["conv_in.bias"] = torch.zeros(5)

    edit_pickle(folder / "s3diff.pkl", damage)
    problems = check_folder(folder)
    assert len(problems) == 3
    assert "1 of 514 tensors missing: conv_out.lora_A.default.weight" in problems[0]
    assert "unexpected: extra" in problems[1]
    assert "conv_in.bias is [5] instead of [32]" in problems[2]


def test_long_listings_are_cut(folder: Path) -> None:
    edit_pickle(folder / "s3diff.pkl", lambda c: c["state_dict_unet"].clear())
    (problem,) = check_folder(folder)
    assert "and 511 more" in problem
    assert len(problem) < 500


def test_a_missing_folder() -> None:
    assert "no such folder" in check_folder(Path("/nowhere/weights"))[0]
