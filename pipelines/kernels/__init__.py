"""Fused kernels of the fast pipelines: Triton on CUDA, one PyTorch reference of the same signature.

Each function is one operator `pipelines::<name>` on every device, so torch.compile, the meta device
and the work counter see the same program everywhere. CUDA runs Triton from sm80 on, for float16 and
float32 in the layout below; everything else (the CPU, float64, an older card, no Triton, another
layout) computes the reference. Arithmetic is at least float32; equal inputs give equal bits.

Feature maps are [B, C, H, W] in channels_last memory. Bytes of device memory moved, with e the
bytes of an element, against separate PyTorch operators; where traffic bounds, the quotient is the
predicted gain (nothing here was measured):

| function          | reads                  | writes      | moved; by separate operators     |
| ----------------- | ---------------------- | ----------- | -------------------------------- |
| group_statistics  | e x                    | 8 B a group | e x; 3 e x with a bias before it |
| group_normalize   | e x                    | e x         | 2 e x; 4 e x with SiLU           |
| group_norm        | 2 e x; e x where a     | e x         | 3 e x; 7 e x with bias and SiLU  |
|                   | group fits registers   |             |                                  |
| merge_statistics  | 8 B a group and tile   | 8 B a group | 3 launches for all tiles         |
| add_residual      | 2 e x                  | e x         | 3 e x; 5 e x with a bias         |
| geglu             | e x                    | e x / 2     | 1.5 e x; 2.5 e x                 |
| wavelet_color_fix | 16 B a value           | 8 B a value | 24 B; about 480 B                |
| merge_lora        | master, low rank parts | out         | 6 B a weight; 14 B (fp32 to 16)  |
| mish_pad          | e x, and e x for the   | e x         | 2 e x; 11 e x with a bias;       |
|                   | residual and the extra |             | each addend 1 e x; 3 e x         |
| pad_concat        | e x, e skip            | as much     | 2 e (x + skip); twice that       |
| diffusion_step    | 8 B a value and e eps  | 4 B a value | 12 B + e; about 88 B + e         |

All fusions together (step P9) are predicted to take the largest documented case on an H100 from
1.14 to 0.98 s.

Layers in integers and in fp8, and the norms that write their codes, are `static_int8` and `fp8`.

Blocks are fixed by shape, not autotuned: a size never seen must run at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from pipelines.kernels import operators as _operators  # registers them

Tensor = torch.Tensor

__all__ = [
    "add_residual",
    "diffusion_step",
    "geglu",
    "group_norm",
    "group_normalize",
    "group_statistics",
    "merge_lora",
    "merge_statistics",
    "mish_pad",
    "pad_concat",
    "wavelet_color_fix",
]
_ops = _operators.namespace()


def group_statistics(x: Tensor, groups: int, shift: Tensor | None = None) -> Tensor:
    """Mean and biased variance of each group of channels of x + shift.

    Args:
        x: [B, C, H, W].
        groups: Divides C.
        shift: [C], the bias of the convolution that made x, which then needs no pass of its own.

    Returns:
        [B, groups, 2], float32 (float64 for float64 x).
    """
    result: Tensor = _ops.group_statistics.default(x, groups, shift)
    return result


def group_normalize(
    x: Tensor,
    statistics: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    shift: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """SiLU(((x + shift) - mean) / sqrt(variance + eps) * weight + bias).

    Args:
        x: [B, C, H, W].
        statistics: [B, groups, 2] or [1, groups, 2], of x + shift: mean and biased variance.
        weight: [C].
        bias: [C].
        eps: Added to the variance.
        shift: [C].
        silu: False leaves the activation out.

    Returns:
        Like x.
    """
    result: Tensor = _ops.group_normalize.default(x, statistics, weight, bias, eps, shift, silu)
    return result


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    shift: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """`group_normalize` with the `group_statistics` of x itself: `silu(F.group_norm(x + shift))`.

    One launch where a group fits in the registers of a program, else three. Arguments as there.
    """
    result: Tensor = _ops.group_norm.default(x, groups, weight, bias, eps, shift, silu)
    return result


def merge_statistics(statistics: Sequence[Tensor], areas: Sequence[int]) -> Tensor:
    """Statistics that the published tiled VAE gives all tiles: means weighted by area.

    The merged variance is the mean of the tiles' variances; that between tiles is left out, as
    published. No host synchronisation.

    Args:
        statistics: Of each tile, [b, groups, 2]; b tiles of equal shape may share an entry.
        areas: Height times width of a tile of each entry.

    Returns:
        [1, groups, 2].
    """
    if len(statistics) == 1 and statistics[0].shape[0] == 1:
        return statistics[0]
    result: Tensor = _ops.merge_statistics.default(list(statistics), list(areas))
    return result


def add_residual(x: Tensor, residual: Tensor, shift: Tensor | None = None) -> Tensor:
    """Sum of x, residual and shift, rounded once.

    Args:
        x: [B, C, H, W].
        residual: Of the same shape.
        shift: [C], the bias of the convolution that made x.

    Returns:
        Like x.
    """
    result: Tensor = _ops.add_residual.default(x, residual, shift)
    return result


def geglu(x: Tensor) -> Tensor:
    """First half of the last dimension times the exact GELU of the second half.

    Args:
        x: [..., 2 I], contiguous.

    Returns:
        [..., I], of the dtype of x.
    """
    result: Tensor = _ops.geglu.default(x)
    return result


def wavelet_color_fix(output: Tensor, source: Tensor) -> Tensor:
    """`wavelet_telescoped` of both images truncated to 8 bits, in two launches.

    Args:
        output: [3, H, W] in [0, 1], float32 or float64, any strides.
        source: Of the same shape and dtype.

    Returns:
        [3, H, W] in [0, 1], float32, contiguous.
    """
    result: Tensor = _ops.wavelet_color_fix.default(output, source)
    return result


def merge_lora(master: Tensor, mixed: Tensor, down: Tensor, scale: float, out: Tensor) -> None:
    """out[i] = master[i] + scale * mixed[i] @ down[i], in place and rounded once.

    Args:
        master: [n, O, K]: unadapted weights of n layers of one shape.
        mixed: [n, O, r]: B M^T of each layer.
        down: [n, r, K]: A of each layer.
        scale: alpha / r.
        out: [n, O, K], overwritten.
    """
    _ops.merge_lora.default(master, mixed, down, scale, out)


def mish_pad(
    x: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    residual_bias: Tensor | None = None,
    extra: Tensor | None = None,
    pad: int = 1,
    mish: bool = True,
) -> Tensor:
    """Mish(x + bias) + residual + residual_bias + extra, padded by reflection, rounded once.

    All that SRDiff's networks do between two convolutions: Mish(x) is x tanh(softplus(x)).

    Args:
        x: [B, C, H, W], as a convolution made it, without its bias.
        bias: [C], of that convolution; float32 beside float16 x is fine, and so is a slice of a
            longer vector.
        residual: [B, C, H, W], or [B, C, H + 2, W + 2], padded itself: its interior is added.
        residual_bias: [C], of the convolution that made the residual.
        extra: [B, C, H, W] or [1, C, H, W], the condition of all samples.
        pad: 0 or 1 pixel on every side; H and W must be larger than it.
        mish: False leaves the activation out.

    Returns:
        [B, C, H + 2 pad, W + 2 pad] of the dtype of x, in channels_last memory.

    Raises:
        ValueError: The padding is not 0 or 1, or the map too small for it.
    """
    result: Tensor = _ops.mish_pad.default(x, bias, residual, residual_bias, extra, pad, mish)
    return result


def pad_concat(x: Tensor, bias: Tensor | None, skip: Tensor) -> Tensor:
    """Channels of x + bias, padded by reflection, before those of a skip that is padded already.

    Args:
        x: [B, C, H, W], sides of at least 2.
        bias: [C], of the convolution that made x; or None.
        skip: [B, D, H + 2, W + 2].

    Returns:
        [B, C + D, H + 2, W + 2] of the dtype of x, in channels_last memory.

    Raises:
        ValueError: The map is too small to be reflected.
    """
    result: Tensor = _ops.pad_concat.default(x, bias, skip)
    return result


def diffusion_step(
    x: Tensor,
    eps: Tensor,
    eps_bias: Tensor | None,
    noise: Tensor,
    coefficients: Tensor,
    step: Tensor,
) -> None:
    """One step of ancestral sampling, in place: x = A clean + D x + sigma noise.

    clean = clamp(B x - C (eps + eps_bias), -1, 1) is formed in float32 whatever eps is: at high
    noise both products are in the thousands. The step is read on the device, so that a CUDA graph
    of one step serves all.

    Args:
        x: [B, 3, H, W], float32 (or float64 with everything beside it), overwritten.
        eps: The network's prediction, of the same shape and any float dtype.
        eps_bias: [3], of the convolution that made eps; or None.
        noise: Standard normal, like x.
        coefficients: [T, 5], rows (B, C, A, D, sigma), of the dtype of x.
        step: [1], int64, on the same device: the row.
    """
    _ops.diffusion_step.default(x, eps, eps_bias, noise, coefficients, step)
