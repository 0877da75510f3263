"""diffusers' names against LDM's, as diffusers itself converts the published files."""

from typing import Any, Literal

import pytest
import torch
from torch import nn

from pipelines.contract import PipelineError
from pipelines.passionsr.names import ldm_names
from pipelines.stable_diffusion.architecture import published_json
from pipelines.stable_diffusion.options import TIMESTEP
from pipelines.stable_diffusion.unet import UNet
from pipelines.stable_diffusion.vae import Vae
from tests.tiny_s3diff import tiny_architecture

Kind = Literal["unet", "vae"]


def weighted(network: nn.Module) -> dict[str, nn.Module]:
    return {p: m for p, m in network.named_modules() if getattr(m, "weight", None) is not None}


def built(kind: Kind, config: dict[str, Any]) -> dict[str, nn.Module]:
    with torch.device("meta"):
        return weighted(UNet(config, TIMESTEP) if kind == "unet" else Vae(config))


@pytest.fixture(scope="module")
def full() -> dict[Kind, dict[str, nn.Module]]:
    kinds: tuple[Kind, ...] = ("unet", "vae")
    return {kind: built(kind, published_json(f"{kind}/config.json")) for kind in kinds}


@pytest.mark.parametrize(("kind", "layers", "norms"), [("unet", 282, 109), ("vae", 72, 52)])
def test_every_module_of_the_published_networks_has_a_name_of_its_own(
    full: Any, kind: Kind, layers: int, norms: int
) -> None:
    names = ldm_names(full[kind], kind, published_json(f"{kind}/config.json"))
    quantizable = [p for p, m in full[kind].items() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert (len(quantizable), len(names) - len(quantizable)) == (layers, norms)
    assert len(set(names.values())) == len(names)


@pytest.mark.parametrize("kind", ["unet", "vae"])
@pytest.mark.parametrize("size", ["full", "tiny"])
def test_diffusers_converts_the_names_back(full: Any, kind: Kind, size: str) -> None:
    from diffusers.loaders import single_file_utils as diffusers

    config: dict[str, Any] = published_json(f"{kind}/config.json")
    modules = full[kind]
    if size == "tiny":
        config = getattr(tiny_architecture(), kind)
        modules = built(kind, config)
    names = ldm_names(modules, kind, config)
    marks = {path: torch.full((1, 1, 1, 1), float(i)) for i, path in enumerate(names)}
    if kind == "unet":
        prefix, convert = "model.diffusion_model.", diffusers.convert_ldm_unet_checkpoint
    else:
        prefix, convert = "first_stage_model.", diffusers.convert_ldm_vae_checkpoint
    published = {f"{prefix}{names[path]}.weight": mark for path, mark in marks.items()}
    # The converter takes a layer's bias for granted in a few places.
    published |= {key.replace(".weight", ".bias"): x for key, x in published.items()}
    config = {"class_embed_type": None, "addition_embed_type": None, **config}
    converted = convert(published, config)
    found = {path: int(converted[f"{path}.weight"].item()) for path in names}
    assert found == {path: int(mark.item()) for path, mark in marks.items()}


def test_names_of_the_specification(full: Any) -> None:
    unet = ldm_names(full["unet"], "unet", published_json("unet/config.json"))
    assert unet["conv_in"] == "input_blocks.0.0"
    for level, block in enumerate((3, 6, 9)):
        assert unet[f"down_blocks.{level}.downsamplers.0.conv"] == f"input_blocks.{block}.0.op"
    assert unet["time_embedding.linear_1"] == "time_embed.0"
    assert unet["conv_out"] == "out.2"
    assert unet["mid_block.resnets.1.time_emb_proj"] == "middle_block.2.emb_layers.1"
    assert unet["up_blocks.0.upsamplers.0.conv"] == "output_blocks.2.1.conv"
    assert unet["up_blocks.1.upsamplers.0.conv"] == "output_blocks.5.2.conv"
    inner = "transformer_blocks.0.attn1.to_q"
    assert unet[f"up_blocks.3.attentions.2.{inner}"] == f"output_blocks.11.1.{inner}"
    vae = ldm_names(full["vae"], "vae", published_json("vae/config.json"))
    # The three whose activations have the widest ranges in the released file.
    assert vae["decoder.up_blocks.3.resnets.0.conv_shortcut"] == "decoder.up.0.block.0.nin_shortcut"
    assert vae["decoder.up_blocks.2.upsamplers.0.conv"] == "decoder.up.1.upsample.conv"
    assert vae["decoder.up_blocks.2.resnets.0.conv_shortcut"] == "decoder.up.1.block.0.nin_shortcut"
    assert vae["encoder.mid_block.attentions.0.to_out.0"] == "encoder.mid.attn_1.proj_out"


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("unet", "down_blocks.0.resnets.0.conv3"),
        ("unet", "encoder.conv_in"),
        ("unet", "mid_block.resnets.0.attn"),
        ("vae", "time_embedding.linear_1"),
        ("vae", "encoder.mid_block.attentions.0.to_qkv"),
        ("vae", "encoder.nothing"),
    ],
)
def test_a_path_of_no_module_is_refused(kind: Kind, path: str) -> None:
    with pytest.raises(PipelineError, match=path):
        ldm_names([path], kind, published_json(f"{kind}/config.json"))
