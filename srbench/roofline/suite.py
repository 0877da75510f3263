"""What is timed alone to know a card: the operations of S3Diff's networks at their sizes.

Each entry says what one call multiplies and moves, makes its inputs, and calls the library. Shapes
on CUDA are those of the largest documented case; on CPU smaller ones take the same path.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

Inputs = tuple[Any, ...]
Draw = Callable[..., "torch.Tensor"]
"""`draw(*shape)`: fresh standard normal values, 4-dimensional ones channels_last."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One operation.

    Attributes:
        name, kind, shape: See `srbench.roofline.ceilings.Ceiling`.
        flops: Of one call.
        elements: Read and written by one call.
        inputs: Makes one set of inputs.
        call: Computes with a set.
    """

    name: str
    kind: str
    shape: str
    flops: int
    elements: int
    inputs: Callable[[Draw], Inputs]
    call: Callable[..., Any]


def suite(device: str) -> list[Entry]:
    """Everything that is measured on `cpu` or `cuda`, in order."""
    return _on_card() if device == "cuda" else _on_cpu()


def _on_card() -> list[Entry]:
    vae = ((128, 1456, 1280), (256, 728, 640), (512, 364, 320))
    unet = ((320, 96), (640, 48), (1280, 24))
    return [
        product(8192),
        integer_product(8192),
        copy(1 << 29),
        *(convolution("vae", 1, width, *size) for width, *size in vae),
        *(convolution("unet", 16, width, side, side) for width, side in unet),
        *upsampling("vae", 1, 512, 182, 160),
        *upsampling("unet", 16, 1280, 24, 24),
        attention("unet", 80, 9216, 64),
        attention("vae", 1, 27300, 512),
        *(norm("vae", 1, width, *size) for width, *size in vae),
        norm("unet", 16, 320, 96, 96),
    ]


def _on_cpu() -> list[Entry]:
    return [
        product(512),
        copy(1 << 22),
        *(convolution("vae", 1, width, 16, 16) for width in (128, 256, 512)),
        *(convolution("unet", 2, width, 4, 4) for width in (320, 640, 1280)),
        *upsampling("vae", 1, 512, 8, 8),
        *upsampling("unet", 2, 320, 4, 4),
        attention("unet", 5, 256, 64),
        attention("vae", 1, 256, 512),
        norm("vae", 1, 128, 128, 128),
        norm("unet", 2, 320, 32, 32),
    ]


def product(side: int) -> Entry:
    """Two square matrices."""
    import torch

    return Entry(
        name=f"matmul-{side}",
        kind="linear",
        shape=f"[{side}, {side}] x [{side}, {side}]",
        flops=2 * side**3,
        elements=3 * side**2,
        inputs=lambda draw: (draw(side, side), draw(side, side)),
        call=torch.mm,
    )


def integer_product(side: int) -> Entry:
    """Two square matrices of int8, summed in int32; the second lies transposed, as weights do."""
    import torch

    def inputs(draw: Draw) -> Inputs:
        left, right = ((40 * draw(side, side)).clamp(-127, 127).to(torch.int8) for _ in range(2))
        return left, right.t()

    return Entry(
        name=f"int8-matmul-{side}",
        kind="int8_linear",
        shape=f"[{side}, {side}] x [{side}, {side}]",
        flops=2 * side**3,
        elements=3 * side**2,  # of two bytes: two of one byte are read, one of four is written
        inputs=inputs,
        call=torch._int_mm,
    )


def copy(elements: int) -> Entry:
    """Memory to memory on the device."""
    return Entry(
        name="copy",
        kind="copy",
        shape=f"[{elements}]",
        flops=0,
        elements=2 * elements,
        inputs=lambda draw: (draw(elements), draw(elements)),
        call=lambda target, source: target.copy_(source),
    )


def convolution(network: str, batch: int, width: int, height: int, columns: int) -> Entry:
    """3x3, as many channels out as in, NHWC."""
    import torch.nn.functional as F

    pixels = batch * height * columns
    return Entry(
        name=f"conv-{network}-{width}",
        kind="conv",
        shape=f"[{batch}, {width}, {height}, {columns}], 3x3",
        flops=2 * 9 * width * width * pixels,
        elements=2 * width * pixels + 9 * width * width,
        inputs=lambda draw: (draw(batch, width, height, columns), draw(width, width, 3, 3)),
        call=lambda x, weight: F.conv2d(x, weight, padding=1),
    )


def upsampling(network: str, batch: int, width: int, height: int, columns: int) -> list[Entry]:
    """Nearest upsampling with a 3x3 convolution, and the transposed 4x4 one equal to both."""
    import torch.nn.functional as F

    pixels = 4 * batch * height * columns
    shape = f"[{batch}, {width}, {height}, {columns}] to twice the side"
    plain = Entry(
        name=f"upsample-conv-{network}-{width}",
        kind="fold",
        shape=f"{shape}: nearest, 3x3",
        flops=2 * 9 * width * width * pixels,
        elements=width * pixels // 4 + 3 * width * pixels + 9 * width * width,
        inputs=lambda draw: (draw(batch, width, height, columns), draw(width, width, 3, 3)),
        call=lambda x, weight: F.conv2d(F.interpolate(x, scale_factor=2.0), weight, padding=1),
    )
    folded = Entry(
        name=f"transposed-conv-{network}-{width}",
        kind="fold",
        shape=f"{shape}: transposed 4x4",
        flops=2 * 4 * width * width * pixels,
        elements=width * pixels // 4 + width * pixels + 16 * width * width,
        inputs=lambda draw: (draw(batch, width, height, columns), draw(width, width, 4, 4)),
        call=lambda x, weight: F.conv_transpose2d(x, weight, stride=2, padding=1),
    )
    return [plain, folded]


def attention(network: str, heads: int, tokens: int, depth: int) -> Entry:
    """Fused self-attention by whichever kernel the library picks."""
    import torch.nn.functional as F

    size = (1, heads, tokens, depth)
    return Entry(
        name=f"attention-{network}-{depth}",
        kind="attention",
        shape=f"[1, {heads}, {tokens}, {depth}]",
        flops=4 * heads * tokens * tokens * depth,
        elements=4 * heads * tokens * depth,
        inputs=lambda draw: (draw(*size), draw(*size), draw(*size)),
        call=F.scaled_dot_product_attention,
    )


def norm(network: str, batch: int, width: int, height: int, columns: int) -> Entry:
    """GroupNorm of 32 groups with SiLU, our kernel: reads its map twice and writes it once."""
    from pipelines.kernels import group_norm

    size = (batch, width, height, columns)
    return Entry(
        name=f"norm-{network}-{width}",
        kind="norm",
        shape=f"[{batch}, {width}, {height}, {columns}], 32 groups, SiLU",
        flops=0,
        elements=3 * batch * width * height * columns,
        inputs=lambda draw: (draw(*size), 32, draw(width), draw(width), 1e-6),
        call=group_norm,
    )
