"""What the kernels compute, in PyTorch: the CPU's implementation and the kernels' oracle.

Signatures are those of `pipelines.kernels`. Inputs narrower than float32 are widened first and the
result is rounded once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from pipelines.diffusion.color_fix import truncate_to_uint8, wavelet_telescoped

Tensor = torch.Tensor


def _widen(x: Tensor) -> Tensor:
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def _like(x: Tensor, result: Tensor) -> Tensor:
    """`result` with the dtype and the memory format of x."""
    template = torch.empty_like(x, device="meta")
    if result.dtype == x.dtype and result.stride() == template.stride():
        return result
    return torch.empty_like(x).copy_(result)


def _column(vector: Tensor) -> Tensor:
    """[C] or [B, C] against [B, C, H, W]."""
    return vector[..., None, None]


def group_statistics(x: Tensor, groups: int, shift: Tensor | None = None) -> Tensor:
    """See `pipelines.kernels.group_statistics`."""
    wide = _widen(x)
    if shift is not None:
        wide = wide + _column(shift)
    grouped = wide.unflatten(1, (groups, -1))
    variance, mean = torch.var_mean(grouped, dim=(2, 3, 4), correction=0)
    return torch.stack((mean, variance), dim=-1)


def group_normalize(
    x: Tensor,
    statistics: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    shift: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """See `pipelines.kernels.group_normalize`."""
    per_channel = statistics.repeat_interleave(x.shape[1] // statistics.shape[1], dim=1)
    centre, variance = per_channel.unbind(-1)
    factor = torch.rsqrt(variance + eps) * weight
    if shift is not None:
        centre = centre - shift
    y = (_widen(x) - _column(centre)).mul_(_column(factor)).add_(_column(bias))
    return _like(x, F.silu(y, inplace=True) if silu else y)


def group_norm(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    shift: Tensor | None = None,
    silu: bool = True,
) -> Tensor:
    """See `pipelines.kernels.group_norm`."""
    statistics = group_statistics(x, groups, shift)
    return group_normalize(x, statistics, weight, bias, eps, shift, silu)


def merge_statistics(statistics: list[Tensor], areas: list[int]) -> Tensor:
    """See `pipelines.kernels.merge_statistics`."""
    total = sum(len(s) * area for s, area in zip(statistics, areas, strict=True))
    shares = [area / total for area in areas]
    # The multi-tensor product takes the shares as kernel arguments: no copy from the host.
    return torch.cat(torch._foreach_mul(statistics, shares)).sum(dim=0, keepdim=True)


def add_residual(x: Tensor, residual: Tensor, shift: Tensor | None = None) -> Tensor:
    """See `pipelines.kernels.add_residual`."""
    y = _widen(x) + _widen(residual)
    return _like(x, y if shift is None else y.add_(_column(shift)))


def geglu(x: Tensor) -> Tensor:
    """See `pipelines.kernels.geglu`."""
    value, gate = _widen(x).chunk(2, dim=-1)
    return (F.gelu(gate) * value).to(x.dtype)


def wavelet_color_fix(output: Tensor, source: Tensor) -> Tensor:
    """See `pipelines.kernels.wavelet_color_fix`."""
    eight_bit = (
        truncate_to_uint8(image).float().div(255).contiguous()[None] for image in (output, source)
    )
    return wavelet_telescoped(*eight_bit)[0]


def merge_lora(master: Tensor, mixed: Tensor, down: Tensor, scale: float, out: Tensor) -> None:
    """See `pipelines.kernels.merge_lora`."""
    out.copy_(torch.baddbmm(_widen(master), _widen(mixed), _widen(down), alpha=scale))
