"""The UNet of the fast sampler: the published tensors, each map padded by what produces it.

A feature map leaves its producer with the reflection padding that the next convolution wants, so
that bias, Mish, residual, condition and padding are one pass. The skip of the first level, which
the published UNet keeps and never reads, is not kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from pipelines import kernels
from pipelines.srdiff.folded import TimeTable, added_table, folded_table, resnet_blocks
from pipelines.srdiff.options import OptimizedOptions
from pipelines.srdiff.unet import ResnetBlock, UNet

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True)
class _Time:
    """Of one step and one block.

    Attributes:
        added: [width], added between the convolutions; None where it was folded.
        bias: [width], of the second convolution.
    """

    added: Tensor | None
    bias: Tensor


class FastUNet:
    """Predicts noise for the rows of a list of timesteps.

    Args:
        unet: Published network on the device in float32 or float64; its tensors are taken over.
        timesteps: [steps], those that are sampled.
        options: Which rewrites are on.
        dtype: Of the weights.
    """

    def __init__(
        self, unet: UNet, timesteps: Tensor, options: OptimizedOptions, dtype: torch.dtype
    ) -> None:
        self._timesteps = timesteps
        self._folded = options.hoist_time and options.fold_time
        self._table: TimeTable | None = None
        if options.hoist_time:
            self._table = (folded_table if options.fold_time else added_table)(unet, timesteps)
        self._fused = options.fused_mish
        # oneDNN adds a bias for nothing, cuDNN in a pass of its own.
        self._defer = options.fused_mish and timesteps.device.type != "cpu"
        self._hoisted_condition = options.hoist_condition
        self._layout = torch.channels_last if options.channels_last else torch.contiguous_format
        self._unet = unet.to(dtype=dtype).to(memory_format=self._layout)
        self._blocks = list(resnet_blocks(unet).values())
        self.dtype = dtype

    def prepare_condition(self, maps: Tensor) -> Tensor:
        """Encoder features [1, C, h, w] -> what the steps are given, computed once an image."""
        maps = maps.to(dtype=self.dtype, memory_format=self._layout)
        if not self._hoisted_condition:
            return maps
        return torch.as_tensor(self._unet.cond_proj(maps)).contiguous(memory_format=self._layout)

    def crop_condition(
        self, condition: Tensor, top: int, left: int, side: tuple[int, int]
    ) -> Tensor:
        """The part of `prepare_condition`'s result under a tile; all in HR pixels."""
        cell = 1 if self._hoisted_condition else self._unet.cond_proj.stride[0]
        height, width = (length // cell for length in side)
        top, left = top // cell, left // cell
        part = condition[..., top : top + height, left : left + width]
        return part.contiguous(memory_format=self._layout)

    @property
    def final_bias(self) -> Tensor | None:
        """What the sampler step adds to the predicted noise; None where it is in already."""
        return self._unet.final_conv.get_parameter("1.bias") if self._defer else None

    def __call__(self, x: Tensor, step: Tensor, condition: Tensor) -> Tensor:
        """Predict the noise, but for `final_bias`.

        Args:
            x: [B, 3, H, W], float32.
            step: [1], row of the timesteps.
            condition: Of `prepare_condition`, batch 1.

        Returns:
            [B, 3, H, W].
        """
        unet = self._unet
        times = iter(self._times(step))
        blocks = iter(self._blocks)
        projected = condition if self._hoisted_condition else unet.cond_proj(condition)
        x = self._pad(x.to(dtype=self.dtype, memory_format=self._layout))
        skips = []
        for level, modules in enumerate(unet.downs):
            x = self._resnet(next(blocks), x, next(times))
            extra = projected if level == 0 else None
            x = self._resnet(next(blocks), x, next(times), extra=extra)
            if level == len(unet.downs) - 1:
                skips.append(x)
                break
            if level:
                skips.append(x)
            shrink = modules.get_submodule("2.conv.1")
            x = self._convolve(shrink, x, mish=False)
        x = self._resnet(next(blocks), x, next(times))
        x = self._resnet(next(blocks), x, next(times), pad=0)
        bias = None
        for modules in unet.ups:
            x = self._concat(x, bias, skips.pop())
            x = self._resnet(next(blocks), x, next(times))
            x = self._resnet(next(blocks), x, next(times), pad=0)
            x, bias = self._grow(modules.get_submodule("2.conv.0"), x)
        x = self._pad(x, bias)
        x = self._convolve(unet.final_conv.get_submodule("0.block.1"), x, pad=0)
        last = unet.final_conv[1]
        assert isinstance(last, nn.Conv2d)
        return F.conv2d(x, last.weight, None if self._defer else last.bias)

    def _times(self, step: Tensor) -> list[_Time]:
        biases = [_bias(block.block2.block[1]) for block in self._blocks]
        if self._table is None:
            t = self._timesteps.index_select(0, step)
            wide = torch.promote_types(self.dtype, torch.float32)
            time = self._unet.mlp(self._unet.time_embedding(t, wide).to(self.dtype))
            added = [block.mlp(time)[0] for block in self._blocks]
            return [_Time(*each) for each in zip(added, biases, strict=True)]
        rows = self._table.at(step)
        if self._folded:
            return [_Time(None, row) for row in rows]
        return [_Time(*each) for each in zip(rows, biases, strict=True)]

    def _resnet(
        self, block: ResnetBlock, x: Tensor, time: _Time, extra: Tensor | None = None, pad: int = 1
    ) -> Tensor:
        """[B, C, H + 2, W + 2], padded, -> [B, D, H + 2 pad, W + 2 pad]."""
        h = self._convolve(block.block1.block[1], x, residual_bias=time.added)
        residual, residual_bias = x, None
        if isinstance(block.res_conv, nn.Conv2d):
            residual, residual_bias = self._bare(block.res_conv, x, block.res_conv.bias)
        return self._convolve(
            block.block2.block[1],
            h,
            bias=time.bias,
            residual=residual,
            residual_bias=residual_bias,
            extra=extra,
            pad=pad,
        )

    def _convolve(
        self,
        conv: nn.Module,
        x: Tensor,
        bias: Tensor | None = None,
        residual: Tensor | None = None,
        residual_bias: Tensor | None = None,
        extra: Tensor | None = None,
        pad: int = 1,
        mish: bool = True,
    ) -> Tensor:
        """A 3x3 convolution of a padded map and all that follows it up to the next padded map."""
        assert isinstance(conv, nn.Conv2d)
        y, bias = self._bare(conv, x, conv.bias if bias is None else bias)
        finish = kernels.mish_pad if self._fused else _finish_separately
        return finish(y, bias, residual, residual_bias, extra, pad, mish)

    def _bare(
        self, conv: nn.Conv2d, x: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """The convolution, and the bias that its epilogue is left to add."""
        if self._defer:
            return F.conv2d(x, conv.weight, None, conv.stride), bias
        own = None if bias is None else bias.to(conv.weight.dtype)
        return F.conv2d(x, conv.weight, own, conv.stride), None

    def _grow(self, conv: nn.Module, x: Tensor) -> tuple[Tensor, Tensor | None]:
        assert isinstance(conv, nn.ConvTranspose2d)
        bias = None if self._defer else conv.bias
        return F.conv_transpose2d(x, conv.weight, bias, 2, 1), conv.bias if self._defer else None

    def _pad(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        finish = kernels.mish_pad if self._fused else _finish_separately
        return finish(x, bias, None, None, None, 1, False)

    def _concat(self, x: Tensor, bias: Tensor | None, skip: Tensor) -> Tensor:
        if self._fused:
            return kernels.pad_concat(x, bias, skip)
        return torch.cat([F.pad(x, (1, 1, 1, 1), mode="reflect"), skip], dim=1)


def _bias(conv: nn.Module) -> Tensor:
    return conv.get_parameter("bias")


def _finish_separately(
    x: Tensor,
    bias: Tensor | None,
    residual: Tensor | None,
    residual_bias: Tensor | None,
    extra: Tensor | None,
    pad: int,
    mish: bool,
) -> Tensor:
    """`kernels.mish_pad` in the operators of the published program, the bias being in already."""
    assert bias is None
    if mish:
        x = x * torch.tanh(F.softplus(x))
    if residual is not None:
        rim = (residual.shape[-1] - x.shape[-1]) // 2
        x = x + (residual[..., rim:-rim, rim:-rim] if rim else residual)
    if residual_bias is not None:
        x = x + residual_bias[:, None, None].to(x.dtype)
    if extra is not None:
        x = x + extra
    return F.pad(x, (pad, pad, pad, pad), mode="reflect") if pad else x
