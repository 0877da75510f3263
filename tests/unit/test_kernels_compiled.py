"""The Triton kernels compiled ahead of time for real cards: no card is needed, only Triton.

Whatever a kernel does that the compiler refuses shows here; so do registers spilled to memory and
feature maps that are not read 16 bytes a thread.
"""

import os
import re
import subprocess
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(
        os.environ.get("TRITON_INTERPRET") == "1", reason="this process interprets kernels"
    ),
]
HALF, FLOAT, INT = "*fp16", "*fp32", "i32"
ALIGNED = "i32 of a multiple of 16"
NORM = {"x": HALF, "pixels": INT, "channels": ALIGNED}
APPLY = {"y": HALF, "weight": HALF, "bias": HALF, "eps": "fp32", "SILU": True}
BLOCK = {"BLOCK_PIXELS": 32, "BLOCK_CHANNELS": 128}
STRIDES = ("channel_stride", "row_stride")
IMAGE = {
    "output": FLOAT,
    "taps": HALF,
    "blurred": FLOAT,
    **dict.fromkeys(("height", "width", "left_out"), INT),
    **{f"output_{stride}": INT for stride in STRIDES},
    "output_stride": 1,
    "BLOCK": 64,
    "ACROSS": 32,
}
MISH = {
    **dict.fromkeys(("x", "residual", "extra", "y"), HALF),
    **dict.fromkeys(("bias", "residual_bias"), FLOAT),
    **dict.fromkeys(("pixels", "height", "width", "extra_height"), INT),
    "channels": ALIGNED,
    **dict.fromkeys(("PAD", "RESIDUAL_PAD", "MISH"), 1),
    "BLOCK_PIXELS": 32,
    "BLOCK_CHANNELS": 64,
}
STEP = {
    **dict.fromkeys(("x", "noise", "coefficients"), FLOAT),
    **{"eps": HALF, "eps_bias": FLOAT, "step": "*i64"},
    **dict.fromkeys(("pixels", "channels"), INT),
    **{"X_PLANES": True, "EPS_PLANES": False, "NOISE_PLANES": True},
    **{"BLOCK_PIXELS": 256, "BLOCK_CHANNELS": 4},
}
# Module, kernel, warps, arguments as in production, 16-byte loads of a thread at the least.
PRODUCTION: list[tuple[str, str, int, dict[str, Any], int]] = [
    ("norm", "partial_moments", 4, NORM | BLOCK | {"moments": FLOAT, "steps": INT}, 4),
    (
        "norm",
        "merge_moments",
        8,
        {
            **dict.fromkeys(("moments", "statistics"), FLOAT),
            **dict.fromkeys(("pixels", "chunk_pixels", "chunks", "group_channels"), INT),
            "channels": ALIGNED,
            "BLOCK_CHUNKS": 512,
            "BLOCK_GROUP": 4,
        },
        0,
    ),
    (
        "norm",
        "normalize",
        4,
        NORM
        | APPLY
        | BLOCK
        | {
            "statistics": FLOAT,
            **dict.fromkeys(("steps", "statistics_stride", "group_channels"), INT),
        },
        4,
    ),
    (
        "small_norm",
        "group_in_registers",
        8,
        NORM | APPLY | {"BLOCK_PIXELS": 256, "GROUP": 40, "BLOCK_GROUP": 64},
        8,
    ),
    (
        "pointwise",
        "add_residual",
        4,
        NORM | BLOCK | {"residual": HALF, "y": HALF, "steps": INT},
        8,
    ),
    (
        "pointwise",
        "geglu",
        4,
        {
            "x": HALF,
            "y": HALF,
            "rows": INT,
            "inner": ALIGNED,
            "BLOCK_ROWS": 8,
            "BLOCK_COLUMNS": 256,
        },
        4,
    ),
    (
        "lora",
        "merge_lora",
        4,
        {
            **dict.fromkeys(("master", "mixed", "down"), FLOAT),
            "out": HALF,
            "scale": "fp32",
            "outputs": ALIGNED,
            "inputs": ALIGNED,
            "rank": INT,
            "BLOCK_RANK": 32,
            "BLOCK_OUTPUTS": 32,
            "BLOCK_INPUTS": 128,
        },
        8,
    ),
    (
        "color",
        "blur_rows",
        8,
        IMAGE
        | {f"source_{stride}": INT for stride in STRIDES}
        | {"source": FLOAT, "source_stride": 1},
        4,
    ),
    ("mish", "mish_pad", 4, MISH, 6),
    ("mish", "mish_pad", 4, MISH | {"BLOCK_PIXELS": 16, "extra": None}, 2),
    ("mish", "pad_concat", 4, MISH | {"skip": HALF, "skip_channels": ALIGNED}, 4),
    (
        "mish",
        "pad_concat",
        4,
        MISH | {"skip": HALF, "skip_channels": ALIGNED, "bias": None, "BLOCK_PIXELS": 16},
        2,
    ),
    ("diffusion", "diffusion_step", 4, STEP, 0),
    ("color", "blur_columns", 8, IMAGE | {"result": FLOAT, "SCALE": 3.7e-9}, 4),
]


def signature_of(
    kernel: Any, arguments: dict[str, Any], shift: bool
) -> tuple[dict[str, str], dict[tuple[int], Any], dict[tuple[int], Any]]:
    """Types, constants and alignments as the compiler takes them."""
    given = arguments | {"shift": HALF if shift else None, "HAS_SHIFT": shift}
    types, constants, alignments = {}, {}, {}
    for index, name in enumerate(kernel.arg_names):
        value = given[name]
        if not isinstance(value, str):
            types[name] = "constexpr"
            constants[(index,)] = value
            continue
        types[name] = value.partition(" ")[0]
        if value.startswith("*") or value == ALIGNED:
            alignments[(index,)] = [["tt.divisibility", 16]]
    return types, constants, alignments


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


@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(("module", "name", "warps", "arguments", "wide_loads"), PRODUCTION)
def test_compiles_without_spills(
    module: str,
    name: str,
    warps: int,
    arguments: dict[str, Any],
    wide_loads: int,
    capability: int,
    shift: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    triton = pytest.importorskip("triton")
    compiler = pytest.importorskip("triton.compiler")
    backends = pytest.importorskip("triton.backends.compiler")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    kernel = getattr(import_module(f"pipelines.kernels.triton_{module}"), f"{name}_kernel")
    if shift and "shift" not in kernel.arg_names:
        pytest.skip("takes no shift")
    types, constants, alignments = signature_of(kernel, arguments, shift)
    source = compiler.ASTSource(fn=kernel, signature=types, constexprs=constants, attrs=alignments)
    target = backends.GPUTarget("cuda", capability, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": warps})
    assert len(re.findall(r"ld\.global\S*\.v4", compiled.asm["ptx"])) >= wide_loads
    assert spilled_bytes(compiled.asm["cubin"], tmp_path) == 0
