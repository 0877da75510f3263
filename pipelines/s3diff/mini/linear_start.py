"""Initial weights with which the small VAE's encoder is a linear transform of 8x8 patches already.

A network of this size that begins with random numbers takes most of an hour on a CPU to get where
the principal components of patches are at once. So all residual branches begin at zero, and the
convolutions between them compute principal components, level by level. It stays free to learn
anything else.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from torch import nn

from pipelines.diffusion.one_step import alpha_bar
from pipelines.s3diff.options import TIMESTEP

ANCHOR = 32.0
"""Two channels of each group are constants of this size and its negative: they decide the group's
variance, so that its normalisation multiplies by a constant and is linear."""


def silence_branches(vae: AutoencoderKL) -> None:
    """Let every residual branch add nothing."""
    for path, layer in vae.named_modules():
        if path.endswith((".conv2", ".to_out.0")):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def carry_components(vae: AutoencoderKL, pictures: torch.Tensor) -> None:
    """Make the mean of the posterior the largest principal components of 8x8 patches.

    Each component's x0 has unit variance where the UNet predicts 0.

    Args:
        vae: Of four levels and three colours, its branches silent.
        pictures: [B, 3, H, W] in [-1, 1], sides that are multiples of 8.
    """
    encoder, config = vae.encoder, vae.config
    _clear(encoder.conv_in)
    colours = range(config.in_channels)
    encoder.conv_in.weight[colours, colours, 1, 1] = 1
    basis = torch.eye(config.in_channels)[:, :, None, None]
    usable = _usable(encoder.conv_norm_out)
    for block in encoder.down_blocks[:-1]:
        shortcut = block.resnets[0].conv_shortcut
        if shortcut is not None:
            _clear(shortcut)
            kept = range(min(shortcut.weight.shape[:2]))
            shortcut.weight[kept, kept, 0, 0] = 1
        conv = block.downsamplers[0].conv
        last = block is encoder.down_blocks[-2]
        most = len(usable) if last else conv.out_channels
        mixing, basis, deviations = _components(basis, pictures, most)
        _clear(conv)
        conv.weight[: len(mixing), : mixing.shape[1], :2, :2] = mixing
    _pass_normalisation(encoder.conv_norm_out, conv, usable)
    _clear(encoder.conv_out)
    for parameter in vae.quant_conv.parameters():
        parameter[: config.latent_channels].zero_()
    groups, channels = encoder.conv_norm_out.num_groups, encoder.conv_norm_out.num_channels
    gain = ANCHOR * math.sqrt(2 * groups / channels)
    unit = math.sqrt(alpha_bar(TIMESTEP)) / config.scaling_factor
    for index, channel in enumerate(usable[: config.latent_channels]):
        encoder.conv_out.weight[index, channel, 1, 1] = gain / float(deviations[index])
        encoder.conv_out.weight[index, channel + 1, 1, 1] = -gain / float(deviations[index])
        vae.quant_conv.weight[index, index, 0, 0] = unit


def _components(
    basis: torch.Tensor, pictures: torch.Tensor, most: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Principal components of patches twice as large, within what four neighbours can tell.

    Args:
        basis: Orthonormal patterns of the channels so far, [C, 3, p, p].
        pictures: To find the components of.
        most: How many are kept.

    Returns:
        Weights of a 2x2 convolution with stride 2, [K, C, 2, 2]; patterns [K, 3, 2p, 2p]; standard
        deviations [K].
    """
    channels, colours, side, _ = basis.shape
    quadrants = basis.new_zeros(channels, 2, 2, colours, 2 * side, 2 * side)
    for y in range(2):
        for x in range(2):
            rows, columns = (slice(i * side, (i + 1) * side) for i in (y, x))
            quadrants[:, y, x, :, rows, columns] = basis
    patches = F.unfold(pictures, 2 * side, stride=2 * side).transpose(1, 2).flatten(0, 1)
    told = patches @ quadrants.flatten(0, 2).flatten(1).T
    _, sizes, directions = torch.linalg.svd(told, full_matrices=False)
    mixing = directions[:most].view(-1, channels, 2, 2)
    patterns = torch.einsum("kcyx,cyxrij->krij", mixing, quadrants)
    return mixing, patterns, sizes[:most] / math.sqrt(len(told))


def _usable(norm: nn.GroupNorm) -> list[int]:
    """First channels of pairs (a value and its negative) beside the two anchors of each group."""
    width = norm.num_channels // norm.num_groups
    return [
        start + offset
        for start in range(0, norm.num_channels, width)
        for offset in range(0, width - 2, 2)
    ]


def _pass_normalisation(norm: nn.GroupNorm, conv: nn.Conv2d, usable: list[int]) -> None:
    """Spread the convolution's outputs over pairs, which pass SiLU: silu(x) - silu(-x) = x."""
    weights = conv.weight[: len(usable)].clone()
    _clear(conv)
    for channel, weight in zip(usable, weights, strict=True):
        conv.weight[channel], conv.weight[channel + 1] = weight, -weight
    width = norm.num_channels // norm.num_groups
    bias = torch.zeros(norm.num_channels)
    bias[width - 2 :: width] = ANCHOR
    bias[width - 1 :: width] = -ANCHOR
    conv.bias = nn.Parameter(bias)


def _clear(conv: nn.Conv2d) -> None:
    for parameter in conv.parameters():
        parameter.zero_()
