"""The merge of low-rank adapters into dense weights in Triton, n layers of a shape a launch.

Ranks of at most 32 leave the merge bound by memory on most cards (6 bytes and 2 r operations a
weight), so the product is exact IEEE float32: the adapters are not rounded to what tensor cores
take, and no float32 product is written to memory.
"""

# mypy: disable-error-code="import-untyped, untyped-decorator"
# ruff: noqa: N803

from __future__ import annotations

import torch
import triton
import triton.language as tl

from pipelines.kernels.blocks import ceil_div, power_of_two

Tensor = torch.Tensor

_LEAST_RANK = 16
"""That a product of blocks takes."""
_BLOCK_OUTPUTS = 32
_BLOCK_INPUTS = 128


@triton.jit(do_not_specialize=["rank"])
def merge_lora_kernel(
    master: tl.tensor,
    mixed: tl.tensor,
    down: tl.tensor,
    out: tl.tensor,
    scale: tl.tensor,
    outputs: tl.tensor,
    inputs: tl.tensor,
    rank: tl.tensor,
    BLOCK_RANK: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
) -> None:
    """One block of one layer's weight."""
    columns = tl.cdiv(inputs, BLOCK_INPUTS)
    row = (tl.program_id(0) // columns) * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    column = (tl.program_id(0) % columns) * BLOCK_INPUTS + tl.arange(0, BLOCK_INPUTS)
    layer = tl.program_id(1).to(tl.int64)
    inner = tl.arange(0, BLOCK_RANK)
    a = tl.load(
        mixed + (layer * outputs + row[:, None]) * rank + inner[None, :],
        mask=(row < outputs)[:, None] & (inner < rank)[None, :],
        other=0.0,
    )
    b = tl.load(
        down + (layer * rank + inner[:, None]) * inputs + column[None, :],
        mask=(inner < rank)[:, None] & (column < inputs)[None, :],
        other=0.0,
    )
    product = tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    valid = (row < outputs)[:, None] & (column < inputs)[None, :]
    offsets = layer * outputs * inputs + row[:, None] * inputs + column[None, :]
    weight = tl.load(master + offsets, mask=valid, other=0.0).to(tl.float32)
    result = weight + scale * product
    tl.store(out + offsets, result.to(out.dtype.element_ty), mask=valid)


def merge_lora(master: Tensor, mixed: Tensor, down: Tensor, scale: float, out: Tensor) -> None:
    """Launch; see `pipelines.kernels.merge_lora`."""
    layers, outputs, inputs = master.shape
    rank = mixed.shape[2]
    grid = (ceil_div(outputs, _BLOCK_OUTPUTS) * ceil_div(inputs, _BLOCK_INPUTS), layers)
    merge_lora_kernel[grid](
        master,
        mixed,
        down,
        out,
        scale,
        outputs,
        inputs,
        rank,
        max(_LEAST_RANK, power_of_two(rank)),
        _BLOCK_OUTPUTS,
        _BLOCK_INPUTS,
    )
