"""The kernels of static int8 compiled ahead of time for real cards: no card is needed.

What the compiler refuses shows here; so do missing matrix units, copies that wait for each other,
registers spilled to memory, more shared memory than an A10 has, and fused multiply-adds where codes
are decided.
"""

import os
import re
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from pipelines.kernels.product_plan import plan_product

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="this process interprets kernels"
    ),
]
HALF, FLOAT, BYTES, WHOLE = "*fp16", "*fp32", "*i8", "*i32"
TYPES = {
    **dict.fromkeys(("scales", "quantizer", "statistics", "first", "second", "third"), FLOAT),
    **dict.fromkeys(("x", "weight", "bias", "shift", "residual", "out"), HALF),
    **dict.fromkeys(("codes", "y"), BYTES),
    **{"correction": WHOLE, "partial": WHOLE, "eps": "fp32"},
}
ALIGNED = ("columns", "depth", "pixel_stride", "channels", "inner")
AREA_OF_AN_A10 = 99 * 1024


def compiled(
    module: str,
    kernel: str,
    capability: int,
    options: dict[str, Any],
    types: dict[str, str],
    constants: dict[str, Any],
) -> Any:
    """As the launcher's call compiles it."""
    triton = pytest.importorskip("triton")
    compiler = pytest.importorskip("triton.compiler")
    backends = pytest.importorskip("triton.backends.compiler")
    function = getattr(import_module(f"pipelines.kernels.triton_{module}"), f"{kernel}_kernel")
    known = TYPES | types
    names = function.arg_names
    signature = {n: "constexpr" if n in constants else known.get(n, "i32") for n in names}
    alignments = {
        (index,): [["tt.divisibility", 16]]
        for index, name in enumerate(names)
        if name not in constants and (signature[name].startswith("*") or name in ALIGNED)
    }
    source = compiler.ASTSource(function, signature, constants, alignments)
    return triton.compile(
        source, target=backends.GPUTarget("cuda", capability, 32), options=options
    )


def spilled_bytes(cubin: bytes, folder: Path) -> int:
    """Of a thread: what the assembler put on the stack."""
    triton = import_module("triton")
    (folder / "kernel.cubin").write_bytes(cubin)
    tool = Path(str(triton.__file__)).parent / "backends/nvidia/bin/cuobjdump"
    if not tool.exists():
        pytest.skip("this Triton brings no cuobjdump")
    usage = subprocess.run(
        [tool, "-res-usage", folder / "kernel.cubin"], capture_output=True, text=True, check=True
    )
    found = re.search(r"STACK:(\d+)", usage.stdout)
    assert found, usage.stdout
    return int(found[1])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))


# Rows, columns, depth, kernel, stride, upsampled: a VAE level, UNet levels, a linear layer.
PRODUCTS = [
    (262144, 128, 128, 3, 1, False),
    (65536, 512, 512, 3, 1, True),
    (4096, 320, 320, 3, 1, False),
    (1024, 640, 1920, 3, 1, False),
    (1024, 320, 320, 3, 2, False),
    (64, 1280, 1280, 3, 1, False),
    (4096, 320, 640, 1, 1, False),
    (4096, 2560, 320, 1, 1, False),
]


@pytest.mark.parametrize("capability", [80, 86, 89, 90])
@pytest.mark.parametrize(("rows", "columns", "depth", "kernel", "stride", "upsampled"), PRODUCTS)
def test_products(
    rows: int,
    columns: int,
    depth: int,
    kernel: int,
    stride: int,
    upsampled: bool,
    capability: int,
    tmp_path: Path,
) -> None:
    plan = plan_product(rows, columns, depth, kernel**2)
    constants = {
        **{"KERNEL": kernel, "STRIDE": stride, "PAD": kernel // 2, "RESIDUAL": True},
        **{"SHIFT_ROWS": int(upsampled), "SHIFT_COLUMNS": int(upsampled), "GROUP": 8},
        **{"BLOCK_M": plan.block_m, "BLOCK_N": plan.block_n, "BLOCK_K": plan.block_k},
        **{"SPLITS": plan.splits, "WHOLE_K": depth % plan.block_k == 0},
    }
    types = {"weight": BYTES, "bias": FLOAT, "out": HALF if plan.splits == 1 else WHOLE}
    options = {"num_warps": plan.warps, "num_stages": plan.stages}
    made = compiled("static_int8", "product", capability, options, types, constants)
    ptx = made.asm["ptx"]
    unit = "wgmma.mma_async" if capability >= 90 else "mma.sync.aligned.m16n8k32"
    assert unit in ptx
    assert "s32.s8.s8" in ptx
    assert "cp.async.cg.shared.global" in ptx  # 16 bytes a thread, while the units multiply
    assert not re.search(r"cp\.async\.ca", ptx)
    assert made.metadata.shared <= AREA_OF_AN_A10
    # The widest blocks of Hopper keep a few addresses of the epilogue on the stack.
    assert spilled_bytes(made.asm["cubin"], tmp_path) <= (64 if capability >= 90 else 16)


@pytest.mark.parametrize("capability", [80, 90])
def test_merging_of_splits(capability: int, tmp_path: Path) -> None:
    constants = {"KERNEL": 3, "STRIDE": 1, "PAD": 1, "RESIDUAL": True, "SPLITS": 5}
    made = compiled(
        "static_int8", "merge_splits", capability, {"num_warps": 4}, {"bias": FLOAT},
        constants | {"BLOCK_M": 8, "BLOCK_N": 128},
    )  # fmt: skip
    assert re.search(r"ld\.global\S*\.v4", made.asm["ptx"])
    assert spilled_bytes(made.asm["cubin"], tmp_path) == 0


BLOCK = {"OFFSET": 128, "BLOCK_CHANNELS": 128}
PRODUCERS: list[tuple[str, str, int, dict[str, Any]]] = [
    ("codes", "quantize_channels", 4, BLOCK | {"BLOCK_ROWS": 32}),
    ("codes", "layer_norm_codes", 4, BLOCK | {"BLOCK_ROWS": 4, "BLOCK_CHANNELS": 512, "LAYERS": 3}),
    ("codes", "geglu_codes", 4, {"OFFSET": 128, "BLOCK_ROWS": 8, "BLOCK_COLUMNS": 256}),
    (
        "norm_codes",
        "normalize_codes",
        4,
        BLOCK | {"BLOCK_PIXELS": 32, "HAS_SHIFT": False, "SILU": True},
    ),
    (
        "norm_codes",
        "group_codes",
        8,
        {"OFFSET": 128, "BLOCK_PIXELS": 256, "GROUP": 40, "BLOCK_GROUP": 64}
        | {"HAS_SHIFT": True, "SILU": False},
    ),
]


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("module", "kernel", "warps", "constants"), PRODUCERS)
def test_producers(
    module: str, kernel: str, warps: int, constants: dict[str, Any], capability: int, tmp_path: Path
) -> None:
    options = {"num_warps": warps, "enable_fp_fusion": False}
    made = compiled(module, kernel, capability, options, {}, constants)
    assert re.search(r"ld\.global\S*\.v[24]", made.asm["ptx"])
    assert spilled_bytes(made.asm["cubin"], tmp_path) == 0


@pytest.mark.parametrize(("module", "kernel", "warps", "constants"), PRODUCERS[:1] + PRODUCERS[4:])
def test_nothing_is_fused_where_codes_are_decided(
    module: str, kernel: str, warps: int, constants: dict[str, Any]
) -> None:
    """A product and a sum that are rounded together would give other codes than the CPU's."""
    options = {"num_warps": warps, "enable_fp_fusion": False}
    made = compiled(module, kernel, 80, options, {}, constants)
    assert re.search(r"mul(\.rn)?\.f32", made.asm["ptx"])
    assert "fma.rn.f32" not in made.asm["ptx"]


@pytest.mark.parametrize("capability", [89, 90])
def test_fp8_is_rounded_by_the_card(capability: int) -> None:
    constants = {"LARGEST": 448.0, "BLOCK_ROWS": 32, "BLOCK_CHANNELS": 128}
    types, options = {"y": "*fp8e4nv"}, {"num_warps": 4}
    made = compiled("codes", "quantize_fp8", capability, options, types, constants)
    assert "cvt.rn.satfinite.e4m3x2" in made.asm["ptx"]
