"""Names of the layers of Stable Diffusion 2 in CompVis' layout (LDM), in which PassionSR saves.

Both spell the same networks. diffusers counts resnets, transformers and resamplers of a level each
on their own; LDM counts the UNet's in one list of blocks, and the decoder's levels from the
picture inwards.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pipelines.contract import PipelineError

_UNET_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_UNET_ENDS = {
    "conv_in": "input_blocks.0.0",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
_VAE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}
_BLOCK = re.compile(r"(down|up)_blocks\.(\d+)\.(\w+?)\.(\d+)\.(.+)")
_MIDDLE = re.compile(r"mid_block\.(resnets|attentions)\.(\d+)\.(.+)")


def ldm_names(
    paths: Iterable[str], kind: Literal["unet", "vae"], config: Mapping[str, Any]
) -> dict[str, str]:
    """LDM's path of each module.

    Args:
        paths: Modules with weights, as diffusers and the flat networks spell them; attention blocks
            of the UNet, whose path is a prefix of their layers', too.
        kind: The network they are in. A whole VAE: with `encoder.` and `decoder.`.
        config: The snapshot's `unet/config.json` or `vae/config.json`.

    Raises:
        PipelineError: There is no such module in such a network.
    """
    translate = _unet_name if kind == "unet" else _vae_name
    names = {}
    for path in paths:
        name = translate(path, config)
        if name is None:
            raise PipelineError(f"{path}: no module of a {kind} of the Stable Diffusion 2 family")
        names[path] = name
    return names


def _unet_name(path: str, config: Mapping[str, Any]) -> str | None:
    if path in _UNET_ENDS:
        return _UNET_ENDS[path]
    if middle := _MIDDLE.fullmatch(path):
        part, index, rest = middle.groups()
        inner = _inside_unet(part, rest)
        place = 1 if part == "attentions" else 2 * int(index)
        return inner and f"middle_block.{place}.{inner}"
    block = _BLOCK.fullmatch(path)
    if block is None:
        return None
    side, level, part, index = block[1], int(block[2]), block[3], int(block[4])
    depth: int = config["layers_per_block"]
    inner = _inside_unet(part, block[5])
    if inner is None:
        return None
    if side == "down":
        # A level is its resnets and the resampler behind them; block 0 is the input convolution.
        resampler = part == "downsamplers"
        number = 1 + level * (depth + 1) + (depth if resampler else index)
        return f"input_blocks.{number}.{int(part == 'attentions')}.{inner}"
    # On the way up the resampler is in the block of the last of one more resnets.
    attends = "CrossAttn" in config["up_block_types"][level]
    if part == "upsamplers":
        return f"output_blocks.{level * (depth + 1) + depth}.{1 + attends}.{inner}"
    return f"output_blocks.{level * (depth + 1) + index}.{int(part == 'attentions')}.{inner}"


def _inside_unet(part: str, rest: str) -> str | None:
    if part == "resnets":
        return _UNET_RESNET.get(rest)
    if part == "downsamplers":
        return "op"
    return rest


def _vae_name(path: str, config: Mapping[str, Any]) -> str | None:
    half, _, rest = path.partition(".")
    if path in ("quant_conv", "post_quant_conv"):
        return path
    if half not in ("encoder", "decoder"):
        return None
    if rest in ("conv_in", "conv_out", "conv_norm_out"):
        return f"{half}.{rest.replace('conv_norm_out', 'norm_out')}"
    if middle := _MIDDLE.fullmatch(rest):
        part, index, inner = middle.groups()
        if part == "attentions":
            name = _VAE_ATTENTION.get(inner)
            return name and f"{half}.mid.attn_1.{name}"
        return f"{half}.mid.block_{int(index) + 1}.{inner}"
    block = _BLOCK.fullmatch(rest)
    if block is None:
        return None
    side, level, part, index, inner = block[1], int(block[2]), block[3], block[4], block[5]
    if part in ("downsamplers", "upsamplers"):
        inner = f"{side}sample.conv"
    else:
        inner = f"block.{index}.{inner.replace('conv_shortcut', 'nin_shortcut')}"
    outermost = len(config["block_out_channels"]) - 1
    return f"{half}.{side}.{level if side == 'down' else outermost - level}.{inner}"
