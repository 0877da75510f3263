"""The UNet's tensors as the fast sampler wants them: time tables, folded biases."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from pipelines.srdiff.unet import ResnetBlock, UNet


@dataclass(frozen=True, slots=True)
class TimeTable:
    """What the timestep changes in each ResnetBlock, one row a sampled step.

    Attributes:
        rows: [steps, sum of widths].
        widths: Channels of each block, in the order of `resnet_blocks`.
    """

    rows: torch.Tensor
    widths: tuple[int, ...]

    def at(self, step: torch.Tensor) -> list[torch.Tensor]:
        """Of the step [1], a view [width] for each block: one kernel in all."""
        return list(self.rows.index_select(0, step)[0].split(self.widths))


def resnet_blocks(unet: UNet) -> dict[str, ResnetBlock]:
    """By name, in the order of computation."""
    order = [f"downs.{level}.{i}" for level in range(len(unet.downs)) for i in range(2)]
    order += ["mid_block1", "mid_block2"]
    order += [f"ups.{level}.{i}" for level in range(len(unet.ups)) for i in range(2)]
    found = {name: unet.get_submodule(name) for name in order}
    return {name: block for name, block in found.items() if isinstance(block, ResnetBlock)}


def time_biases(unet: UNet, timesteps: torch.Tensor) -> list[torch.Tensor]:
    """What each ResnetBlock adds between its convolutions at each timestep, [steps, width]."""
    dtype = unet.mlp.get_submodule("0").get_parameter("weight").dtype
    time = unet.mlp(unet.time_embedding(timesteps, dtype))
    return [block.mlp(time) for block in resnet_blocks(unet).values()]


def added_table(unet: UNet, timesteps: torch.Tensor) -> TimeTable:
    """The projections of the time embedding as they are."""
    added = time_biases(unet, timesteps)
    return TimeTable(torch.cat(added, dim=1), tuple(each.shape[1] for each in added))


def folded_table(unet: UNet, timesteps: torch.Tensor) -> TimeTable:
    """Biases of the second convolutions that have taken up the projections.

    A constant added before a convolution shifts its result by the sum of its kernel: everywhere,
    since reflection padding repeats the constant (zero padding would not). Folded in float64.
    """
    rows = []
    for block, added in zip(
        resnet_blocks(unet).values(), time_biases(unet, timesteps), strict=True
    ):
        conv = block.block2.block[1]
        assert isinstance(conv, nn.Conv2d)
        assert conv.bias is not None
        sums = conv.weight.double().sum(dim=(2, 3))
        rows.append((conv.bias.double() + added.double() @ sums.T).to(added.dtype))
    return TimeTable(torch.cat(rows, dim=1), tuple(each.shape[1] for each in rows))
