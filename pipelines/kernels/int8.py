"""Linear layers in int8 (W8A8): symmetric, one scale a row of the input, one an output channel.

Two operators that the dispatcher sees as one call each on every device: `pipelines::quantize_rows`
and `pipelines::int8_linear`. On CUDA they are Triton kernels (`triton_int8`) that read the row once
and write the scaled result once: int32 accumulators in memory would cost more than int8 saves. The
integers are the same on every device, because every step that decides them is one correctly rounded
float32 operation: the reciprocal 127 / max, its product with the value, and rint.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch.utils.flop_counter import register_flop_formula

from pipelines.kernels.operators import on_cuda

Tensor = torch.Tensor

LEVELS = 127
"""Largest integer: symmetric, -128 is not used."""
SMALLEST_ROW = 1e-30
"""A row of zeros divides by this instead; float32 keeps its reciprocal times 127 finite."""
_LEAST_ROWS, _MULTIPLE = 17, 8
"""What `torch._int_mm` asks for on CUDA: more than 16 rows, K and N multiples of 8."""

_library = torch.library.Library("pipelines", "FRAGMENT")
_library.define("quantize_rows(Tensor x, Tensor(a!) values, Tensor(b!) scales) -> ()")
_library.define(
    "int8_linear(Tensor x, Tensor weight, Tensor scales, Tensor? bias, Tensor(a!) out) -> ()"
)


def quantize_rows(x: Tensor, values: Tensor, scales: Tensor) -> None:
    """Write x as `values * scales[:, None]`, in place of what both hold.

    Args:
        x: [M, K] floating, rows contiguous.
        values: [M, K] int8.
        scales: [M] float32: largest magnitude of the row / 127. A row with an infinity or a NaN
            gets a scale that is not finite, so that what is computed from it is not finite either.
    """
    torch.ops.pipelines.quantize_rows(x, values, scales)


def int8_linear(
    x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    """Write x W^T + bias into `out`: x is quantised row by row, products are summed in int32.

    Args:
        x: [M, K] floating, rows contiguous.
        weight: [N, K] int8, contiguous.
        scales: [N] float32, the scales of `weight`.
        bias: [N] or None; added in float32 before the one rounding to the dtype of `out`.
        out: [M, N] floating, rows contiguous.
    """
    torch.ops.pipelines.int8_linear(x, weight, scales, bias, out)


def integer_product(left: Tensor, right: Tensor) -> Tensor:
    """int8 [M, K] times int8 [N, K] transposed, exact, [M, N] int32.

    On a CPU in float64, which holds every such sum: oneDNN's int8 products saturate in 16 bits
    where the processor lacks VNNI, or was asked for AVX2 kernels. On CUDA zeros pad what is smaller
    than the vendor's kernel takes; they add nothing to any sum.
    """
    if left.device.type == "cpu":
        return (left.double() @ right.double().t()).to(torch.int32)
    rows, columns = left.shape[0], right.shape[0]
    depth = -left.shape[1] % _MULTIPLE
    left = F.pad(left, (0, depth, 0, max(0, _LEAST_ROWS - rows)))
    right = F.pad(right, (0, depth, 0, -columns % _MULTIPLE))
    return torch._int_mm(left, right.t())[:rows, :columns]


def _quantize_rows_reference(x: Tensor, values: Tensor, scales: Tensor) -> None:
    rows = x.float()
    largest = rows.abs().amax(dim=1)
    # Not `LEVELS / largest`, which torch rounds twice: reciprocal, then product.
    inverse = torch.full_like(largest, LEVELS) / largest.clamp_min(SMALLEST_ROW)
    # Infinities times a zero reciprocal are NaN, which has no integer: zero, under a broken scale.
    values.copy_((rows * inverse[:, None]).round_().nan_to_num_(0.0, 0.0, 0.0))
    scales.copy_(largest * (1 / LEVELS))


def _int8_linear_reference(
    x: Tensor, weight: Tensor, scales: Tensor, bias: Tensor | None, out: Tensor
) -> None:
    values = torch.empty_like(x, dtype=torch.int8)
    row_scales = torch.empty(x.shape[0], dtype=torch.float32, device=x.device)
    _quantize_rows_reference(x, values, row_scales)
    product = integer_product(values, weight).float()
    product.mul_(row_scales[:, None]).mul_(scales)
    out.copy_(product if bias is None else product.add_(bias.float()))


def _narrow(x: Tensor, *_: Any) -> bool:
    """The kernels compute in float32."""
    return x.dtype != torch.float64


def _nothing(*_: Any) -> None:
    """On the meta device nothing is written."""


for _name, _reference in (
    ("quantize_rows", _quantize_rows_reference),
    ("int8_linear", _int8_linear_reference),
):
    _launcher = "pipelines.kernels.triton_int8", f"launch_{_name}"
    _library.impl(_name, _reference, "CPU")
    _library.impl(_name, on_cuda(_reference, *_launcher, _narrow), "CUDA")
    _library.impl(_name, _nothing, "Meta")


@register_flop_formula(torch.ops.pipelines.int8_linear)
def _int8_linear_flops(x: Any, weight: Any, *_: Any, **__: Any) -> int:
    """Operations of the product, counted like floating-point ones: 2 per multiply-add."""
    return int(2 * x[0] * x[1] * weight[0])
