"""The int8 arithmetic against a float64 emulation of the same quantisation, and its kernels."""

import os
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pipelines.kernels.int8 import int8_linear, integer_product, quantize_rows

Tensor = torch.Tensor


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(11)


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    values = torch.full(x.shape, 77, dtype=torch.int8)
    scales = torch.full(x.shape[:1], torch.nan)
    quantize_rows(x, values, scales)
    return values, scales


def applied(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    out = torch.full((x.shape[0], weight.shape[0]), torch.nan, dtype=x.dtype)
    int8_linear(x, *quantized(weight), bias, out)
    return out


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_rows_are_the_nearest_integers_of_the_scaled_values(dtype: torch.dtype) -> None:
    x = (torch.randn(37, 50, dtype=torch.float64) * torch.logspace(-6, 3, 37)[:, None]).to(dtype)
    values, scales = quantized(x)
    largest = x.double().abs().amax(dim=1)
    assert torch.allclose(scales.double(), largest / 127, rtol=1e-6, atol=0)
    wanted = x.double() * 127 / largest[:, None]
    assert float((values.double() - wanted).abs().max()) <= 0.5 + 1e-4
    assert torch.equal(values.abs().amax(dim=1), torch.full((37,), 127, dtype=torch.int8))


def test_ties_go_to_even_and_a_row_of_zeros_stays_zero() -> None:
    x = torch.tensor([[127.0, 0.5, 1.5, -2.5, -0.5], [0.0] * 5])
    values, scales = quantized(x)
    assert values.tolist() == [[127, 0, 2, -2, 0], [0] * 5]
    assert scales.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("poison", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_stays_visible(poison: float) -> None:
    x = torch.randn(3, 16)
    x[1, 4] = poison
    out = applied(x, torch.randn(8, 16), None)
    assert out.isfinite().all(dim=1).tolist() == [True, False, True]
    assert not out[1].isfinite().any()


@pytest.mark.parametrize(("rows", "columns", "depth"), [(1, 1, 1), (16, 7, 9), (33, 24, 40)])
def test_products_are_exact_at_every_size(rows: int, columns: int, depth: int) -> None:
    left, right = (
        torch.randint(-127, 128, shape, dtype=torch.int8)
        for shape in ((rows, depth), (columns, depth))
    )
    found = integer_product(left, right)
    assert found.dtype == torch.int32
    assert torch.equal(found.long(), left.long() @ right.long().T)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_layer_equals_the_float64_emulation(dtype: torch.dtype, biased: bool) -> None:
    x, weight = torch.randn(45, 100).to(dtype), torch.randn(30, 100).to(dtype)
    bias = torch.randn(30).to(dtype) if biased else None
    found = applied(x, weight, bias)
    (left, rows), (right, columns) = quantized(x), quantized(weight)
    left, right = left.double() * rows.double()[:, None], right.double() * columns.double()[:, None]
    wanted = left @ right.T
    wanted = wanted if bias is None else wanted + bias.double()
    rounding = torch.finfo(dtype).eps * wanted.abs().max()
    assert float((found.double() - wanted).abs().max()) <= float(rounding)
    error = (found.double() - x.double() @ weight.double().T - (0 if bias is None else bias)).norm()
    assert 1e-3 < float(error / wanted.norm()) < 2e-2


def test_the_meta_device_knows_the_operations() -> None:
    x = torch.empty(6, 8, device="meta")
    weight, scales = x.new_empty(5, 8, dtype=torch.int8), x.new_empty(5)
    with FlopCounterMode(display=False) as counter:
        int8_linear(x, weight, scales, None, x.new_empty(6, 5))
    assert counter.get_total_flops() == 2 * 6 * 8 * 5


def test_the_operators_are_registered_as_they_behave() -> None:
    x, weight = torch.randn(4, 8), torch.randn(5, 8)
    values, scales = quantized(weight)
    operators = torch.ops.pipelines
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        operators.quantize_rows.default, (x, torch.empty(4, 8, dtype=torch.int8), torch.empty(4)),
        test_utils=tests,
    )  # fmt: skip
    torch.library.opcheck(
        operators.int8_linear.default, (x, values, scales, torch.randn(5), torch.empty(4, 5)),
        test_utils=tests,
    )  # fmt: skip


COMPILED = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from pipelines.kernels import triton_int8

pointers = {"x": "*fp16", "values": "*i8", "left": "*i8", "weight": "*i8", "row_scales": "*fp32",
            "scales": "*fp32", "bias": "*fp16", "out": "*fp16"}

def compiled(kernel, capability, options, **constants):
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else pointers.get(n, "i32") for n in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(names)
               if n not in constants and n != "rows"}
    source = ASTSource(kernel, signature, constants, aligned)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)

for capability, unit in ((80, "mma.sync.aligned.m16n8k32"), (90, "wgmma.mma_async")):
    rows = compiled(triton_int8.quantize_rows_kernel, capability,
                    {"num_warps": 4, "enable_fp_fusion": False},
                    levels=127, smallest=1e-30, block=1024)
    assert "fma.rn.f32" not in rows.asm["ptx"]  # a fused product rounds otherwise than the CPU
    product = compiled(triton_int8.int8_matmul_kernel, capability,
                       {"num_warps": 8, "num_stages": 3}, has_bias=True, block_m=128,
                       block_n=128, block_k=128, group_m=8)
    assert unit in product.asm["ptx"] and "s32.s8.s8" in product.asm["ptx"], capability
    assert product.metadata.shared <= 99 * 1024
"""


def test_the_kernels_compile_for_both_generations_of_matrix_units() -> None:
    pytest.importorskip("triton")
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", COMPILED], check=True, env=environment)
