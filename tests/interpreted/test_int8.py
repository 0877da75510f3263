"""The kernels of dynamic int8 against their references: the same integers."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from pipelines.kernels import int8
from pipelines.kernels.triton_int8 import launch_int8_linear, launch_quantize_rows

Tensor = torch.Tensor


def quantized(quantize: Callable[..., object], x: Tensor) -> tuple[Tensor, Tensor]:
    values, scales = torch.full(x.shape, 77, dtype=torch.int8), torch.full(x.shape[:1], torch.nan)
    quantize(x, values, scales)
    return values, scales


def same_rows(x: Tensor) -> None:
    ours, wanted = (quantized(f, x) for f in (launch_quantize_rows, int8._quantize_rows_reference))
    sound = wanted[1].isfinite()
    assert torch.equal(ours[1].isfinite(), sound)
    for mine, theirs in zip(ours, wanted, strict=True):
        assert torch.equal(mine[sound], theirs[sound])


@pytest.mark.parametrize(("rows", "columns", "depth"), [(1, 8, 8), (130, 140, 136), (5, 130, 300)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_linear_layer(dtype: torch.dtype, rows: int, columns: int, depth: int) -> None:
    torch.manual_seed(3)
    x = torch.randn(rows, depth).to(dtype) * torch.logspace(-3, 2, rows)[:, None].to(dtype)
    same_rows(x)
    weight = quantized(launch_quantize_rows, torch.randn(columns, depth).to(dtype))
    bias = torch.randn(columns).to(dtype) if rows % 2 else None
    found, wanted = (torch.full((rows, columns), torch.nan, dtype=dtype) for _ in range(2))
    launch_int8_linear(x, *weight, bias, found)
    int8._int8_linear_reference(x, *weight, bias, wanted)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-6)


def test_rows_that_are_not_contiguous() -> None:
    torch.manual_seed(3)
    wide = torch.randn(9, 2000)[:, 40:1000]
    assert not wide.is_contiguous()
    same_rows(wide)


def test_rows_without_a_scale() -> None:
    odd = [[1, torch.nan, 2], [3, torch.inf, -torch.inf], [0, 0, 0], [127, 0.5, 1.5]]
    with np.errstate(invalid="ignore"):
        same_rows(torch.tensor(odd))
