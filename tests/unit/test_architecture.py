"""The published architecture, against the numbers that its authors' files have."""

from __future__ import annotations

import math

import pytest

from pipelines.contract import PipelineError
from pipelines.s3diff.architecture import Architecture
from pipelines.s3diff.expected import Shapes, expected_tensors, is_unet_target, is_vae_target
from pipelines.s3diff.recipe import small_architecture


@pytest.fixture(scope="module")
def published() -> dict[str, Shapes]:
    return expected_tensors(Architecture.published())


def parameters(shapes: Shapes) -> int:
    return sum(math.prod(shape) for shape in shapes.values())


def test_published_networks_have_the_published_size(published: dict[str, Shapes]) -> None:
    assert parameters(published["unet"]) == 865_910_724
    assert parameters(published["vae"]) == 83_653_863
    assert parameters(published["degradation"]) == 2_351_362
    lora = {k: v for k, v in published["state_dict_unet"].items() if ".lora_" in k}
    assert parameters(lora) == 32_434_304
    assert parameters(published["state_dict_vae"]) == 1_477_168
    assert parameters(published["modulation"]) == 551_808 + 64


def test_published_checkpoint_has_516_and_62_tensors(published: dict[str, Shapes]) -> None:
    assert len(published["state_dict_unet"]) == 516
    assert len(published["state_dict_vae"]) == 62
    assert len(published["degradation"]) == 80


@pytest.mark.parametrize(
    ("group", "name", "shape"),
    [
        ("state_dict_unet", "conv_in.weight", (320, 4, 3, 3)),
        (
            "state_dict_unet",
            "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.lora_A.default.weight",
            (32, 1024),
        ),
        (
            "state_dict_unet",
            "down_blocks.0.attentions.0.transformer_blocks.0.ff.net.0.proj.lora_B.default.weight",
            (2560, 32),
        ),
        (
            "state_dict_unet",
            "up_blocks.0.upsamplers.0.conv.lora_A.default.weight",
            (32, 1280, 3, 3),
        ),
        (
            "state_dict_vae",
            "encoder.mid_block.attentions.0.to_q.lora_A.vae_skip.weight",
            (16, 512),
        ),
        ("state_dict_vae", "encoder.conv_in.lora_B.vae_skip.weight", (128, 16, 1, 1)),
        ("modulation", "unet_fuse_mlp.weight", (1024, 320)),
        ("modulation", "vae_block_embeddings.weight", (6, 64)),
        ("degradation", "body.1.6.weight", (128, 64, 3, 3)),
    ],
)
def test_shapes_of_single_tensors(
    published: dict[str, Shapes], group: str, name: str, shape: tuple[int, ...]
) -> None:
    assert published[group][name] == shape


def test_layers_without_an_adapter() -> None:
    sizes = Architecture.published()
    for layer in ("conv_in", "time_embedding.linear_1", "down_blocks.0.resnets.0.time_emb_proj"):
        assert not is_unet_target(sizes, layer)
    assert is_unet_target(sizes, "conv_out")
    for layer in ("decoder.conv_in", "quant_conv", "encoder.down_blocks.0.resnets.0.norm1"):
        assert not is_vae_target(sizes, layer)
    assert is_vae_target(sizes, "encoder.conv_in")


def test_mini_is_small_and_has_all_kinds_of_tensors(published: dict[str, Shapes]) -> None:
    mini = expected_tensors(small_architecture())
    assert sum(map(parameters, mini.values())) < 6_000_000
    assert mini["unet"].keys() <= published["unet"].keys()
    assert mini["modulation"].keys() == published["modulation"].keys()
    assert mini["degradation"].keys() == published["degradation"].keys()


def test_a_config_that_cannot_be_built_is_one_sentence() -> None:
    sizes = Architecture.published()
    odd = {**sizes.unet, "down_block_types": ["NoSuchBlock"] * 4}
    with pytest.raises(PipelineError, match=r"sd-turbo/unet/config.json .* cannot be built"):
        expected_tensors(Architecture(odd, sizes.vae, sizes.text_encoder))
