"""What each layer of a UNet or VAE stores and multiplies, counted on the meta device.

The flat networks themselves run, without numbers, so the count is of the code that executes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Literal, Self

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from pipelines.passionsr.network import plain_path, quantizable_layers
from pipelines.stable_diffusion.geometry import decoder_tiles, encoder_tiles, unet_tiles
from pipelines.stable_diffusion.options import TIMESTEP, VAE_FACTOR, OneStepOptions
from pipelines.stable_diffusion.unet import UNet
from pipelines.stable_diffusion.vae import Decoder, Encoder, Vae, run_whole
from pipelines.traffic import attention_flops

Part = Literal["unet", "encoder", "decoder"]
LayerKind = Literal["conv3x3", "conv3x3_stride2", "conv1x1", "linear"]
Size = tuple[int, int]
"""Height and width of one input: latents of the UNet and the decoder, pixels of the encoder."""

TEXT_TOKENS = 77
_CONSTANT = ("time_embedding.", "time_emb_proj", "attn2.to_k", "attn2.to_v")


@dataclass(frozen=True, slots=True)
class LayerCost:
    """One linear or convolution layer.

    Attributes:
        kind: What a kernel sees of it.
        weights: Numbers in its weight.
        inputs: Input channels.
        outputs: Output channels.
        biased: Whether it has a bias.
        macs: Multiply-adds of all counted inputs.
    """

    kind: LayerKind
    weights: int
    inputs: int
    outputs: int
    biased: bool
    macs: int

    @property
    def positions(self) -> int:
        """Output positions (tokens, pixels) of all counted inputs."""
        return self.macs // self.weights


@dataclass(frozen=True, slots=True)
class PartCost:
    """One network, or half of the autoencoder.

    Attributes:
        layers: diffusers' path (in the whole VAE: with `encoder.`) -> layer.
        parameters: All numbers: weights, biases and norms of everything stored.
        attention_macs: Multiply-adds of both matrix products of all attention blocks.
    """

    layers: Mapping[str, LayerCost]
    parameters: int
    attention_macs: int


@dataclass(frozen=True, slots=True)
class Inputs:
    """How many inputs of which height and width each network sees in one image.

    Attributes:
        unet: Tiles times prompts, in latents.
        encoder: Tiles in pixels.
        decoder: Tiles in latents.
    """

    unet: Mapping[Size, int]
    encoder: Mapping[Size, int]
    decoder: Mapping[Size, int]

    @classmethod
    def untiled(cls, height: int, width: int) -> Self:
        """One latent of that size, whole, for one prompt."""
        pixels = (VAE_FACTOR * height, VAE_FACTOR * width)
        return cls(unet={(height, width): 1}, encoder={pixels: 1}, decoder={(height, width): 1})

    @classmethod
    def tiled(cls, height: int, width: int, options: OneStepOptions, prompts: int = 1) -> Self:
        """A latent of that size in the tiles that a pipeline cuts."""
        latent = torch.empty(1, 1, height, width, device="meta")
        image = torch.empty(1, 1, VAE_FACTOR * height, VAE_FACTOR * width, device="meta")
        tiles = unet_tiles(latent, options)
        unet = {(tiles.tile_height, tiles.tile_width): prompts * len(tiles.offsets)}
        encoder, decoder = encoder_tiles(image, options), decoder_tiles(latent, options)
        return cls(
            unet=unet,
            encoder=Counter((tile.source.height, tile.source.width) for tile in encoder),
            decoder=Counter((tile.source.height, tile.source.width) for tile in decoder),
        )


def part_costs(
    unet: Mapping[str, Any], vae: Mapping[str, Any], inputs: Inputs
) -> dict[Part, PartCost]:
    """Count all three; see `unet_cost` and `vae_cost`."""
    return {
        "unet": unet_cost(unet, inputs.unet),
        "encoder": vae_cost(vae, "encoder", inputs.encoder),
        "decoder": vae_cost(vae, "decoder", inputs.decoder),
    }


def without_constants(cost: PartCost) -> PartCost:
    """As the optimized pipelines run a UNet.

    The constant timestep is folded into biases, and keys and values of the constant prompt are
    computed beforehand; their layers are gone.
    """
    kept = {p: x for p, x in cost.layers.items() if not any(name in p for name in _CONSTANT)}
    gone = [layer for path, layer in cost.layers.items() if path not in kept]
    dropped = sum(layer.weights + layer.outputs * layer.biased for layer in gone)
    return PartCost(kept, cost.parameters - dropped, cost.attention_macs)


def unet_cost(config: Mapping[str, Any], inputs: Mapping[Size, int]) -> PartCost:
    """Count a UNet, timestep and prompt with every input, as the published programs run it.

    Args:
        config: The snapshot's `unet/config.json`.
        inputs: Latent size -> how many latents of it (tiles times prompts).
    """
    with torch.device("meta"):
        unet = UNet(config, TIMESTEP).requires_grad_(False)
        text = torch.empty(1, TEXT_TOKENS, config["cross_attention_dim"])
    channels: int = config["in_channels"]

    def run(size: Size) -> None:
        latent = torch.empty(1, channels, *size, device="meta")
        unet(latent, unet.text_keys_values(text), share_prefix=True)

    return _count(unet, run, inputs)


def vae_cost(
    config: Mapping[str, Any], part: Literal["encoder", "decoder"], inputs: Mapping[Size, int]
) -> PartCost:
    """Count half of an autoencoder with its 1x1 convolution.

    Args:
        config: The snapshot's `vae/config.json`.
        part: Which half.
        inputs: Size of a tile (pixels or latents) -> how many of it.
    """
    with torch.device("meta"):
        vae = Vae(config).requires_grad_(False)
    if part == "encoder":
        channels, outer = config["in_channels"], "quant_conv"
    else:
        channels, outer = config["latent_channels"], "post_quant_conv"
    network: Encoder | Decoder = getattr(vae, part)
    half = nn.ModuleDict({part: network, outer: getattr(vae, outer)})

    def run(size: Size) -> None:
        x = torch.empty(1, channels, *size, device="meta")
        x = x if part == "encoder" else vae.post_quant_conv(x)
        x = run_whole(network, x)
        if part == "encoder":
            vae.quant_conv(x)

    return _count(half, run, inputs)


def layer_kind(layer: nn.Linear | nn.Conv2d) -> LayerKind:
    """What a kernel sees of a layer."""
    if isinstance(layer, nn.Linear):
        return "linear"
    if layer.kernel_size == (1, 1):
        return "conv1x1"
    return "conv3x3" if layer.stride == (1, 1) else "conv3x3_stride2"


class _Attention(TorchFunctionMode):
    """Adds up the multiply-adds of fused attention inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is nn.functional.scaled_dot_product_attention:
            self.macs += attention_flops(*args) // 2
        return func(*args, **(kwargs or {}))


def _count(
    network: nn.Module,
    run: Callable[[Size], None],
    inputs: Mapping[Size, int],
) -> PartCost:
    layers = {plain_path(path): layer for path, layer in quantizable_layers(network)}
    macs: Counter[str] = Counter()
    attention = 0
    for size, count in inputs.items():
        each: Counter[str] = Counter()
        hooks = [
            layer.register_forward_hook(partial(_note, each, path))
            for path, layer in layers.items()
        ]
        with torch.inference_mode(), _Attention() as seen:
            run(size)
        for hook in hooks:
            hook.remove()
        attention += count * seen.macs
        for path, one in each.items():
            macs[path] += count * one
    return PartCost(
        layers={path: _cost(layer, macs[path]) for path, layer in layers.items()},
        parameters=sum(parameter.numel() for parameter in network.parameters()),
        attention_macs=attention,
    )


def _note(
    macs: Counter[str], path: str, layer: nn.Module, inputs: object, output: torch.Tensor
) -> None:
    weight = layer.get_parameter("weight")
    macs[path] += output.numel() * prod(weight.shape[1:])


def _cost(layer: nn.Linear | nn.Conv2d, macs: int) -> LayerCost:
    outputs, inputs = layer.weight.shape[:2]
    return LayerCost(
        kind=layer_kind(layer),
        weights=layer.weight.numel(),
        inputs=inputs,
        outputs=outputs,
        biased=layer.bias is not None,
        macs=macs,
    )
