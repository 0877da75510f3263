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


def empty_padded(x: Tensor, channels: int, pad: int) -> Tensor:
    """[B, channels, H + 2 pad, W + 2 pad] like x [B, C, H, W], not filled, in NHWC memory.

    Raises:
        ValueError: The padding is not 0 or 1, or reflection needs more rows or columns.
    """
    batch, _, height, width = x.shape
    if pad not in (0, 1) or min(height, width) <= pad:
        raise ValueError(
            f"a map of {height}x{width} cannot be padded by {pad}: pad by 0 or 1 pixel"
        )
    shape = (batch, channels, height + 2 * pad, width + 2 * pad)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)


def _interior(padded: Tensor, pad: int) -> Tensor:
    return padded[..., 1:-1, 1:-1] if pad else padded


def _mirror_border(padded: Tensor) -> None:
    """Fill the border, one pixel wide, by reflection of what is inside."""
    padded[..., 1:-1, 0] = padded[..., 1:-1, 2]
    padded[..., 1:-1, -1] = padded[..., 1:-1, -3]
    padded[..., 0, :] = padded[..., 2, :]
    padded[..., -1, :] = padded[..., -3, :]


def _mish_into(out: Tensor, x: Tensor, residual: Tensor | None) -> None:
    """Write Mish(x) + residual, in five cheap passes without a temporary.

    With s = sigmoid(x) and h = s - s^2 / 2, tanh(softplus(x)) is h / (1 - h) = 1 / (1 / h - 1):
    no cancellation on either side. `F.mish` takes an exponential, a logarithm and a tanh instead.
    """
    torch.sigmoid(x, out=out)
    torch.addcmul(out, out, out, value=-0.5, out=out)
    out.reciprocal_().sub_(1)
    if residual is None:
        torch.div(x, out, out=out)
    else:
        torch.addcdiv(residual, x, out, out=out)


def mish_pad(
    x: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    residual_bias: Tensor | None = None,
    extra: Tensor | None = None,
    pad: int = 1,
    mish: bool = True,
) -> Tensor:
    """See `pipelines.kernels.mish_pad`."""
    source = _widen(x) if bias is None else _widen(x) + _column(bias)
    y = empty_padded(source, x.shape[1], pad)
    inside = _interior(y, pad)
    beside = None
    if residual is not None:
        beside = _interior(_widen(residual), int(residual.shape[-1] != x.shape[-1]))
    if mish:
        _mish_into(inside, source, beside)
    elif beside is None:
        inside.copy_(source)
    else:
        torch.add(source, beside, out=inside)
    if residual_bias is not None:
        inside.add_(_column(residual_bias))
    if extra is not None:
        inside.add_(extra)
    if pad:
        _mirror_border(y)
    return y.to(x.dtype)


def pad_concat(x: Tensor, bias: Tensor | None, skip: Tensor) -> Tensor:
    """See `pipelines.kernels.pad_concat`."""
    channels = x.shape[1]
    y = empty_padded(x, channels + skip.shape[1], 1)
    padded = y[:, :channels]
    if bias is None:
        _interior(padded, 1).copy_(x)
    else:
        torch.add(x, _column(bias), out=_interior(padded, 1))
    _mirror_border(padded)
    y[:, channels:] = skip
    return y


def diffusion_step(
    x: Tensor,
    eps: Tensor,
    eps_bias: Tensor | None,
    noise: Tensor,
    coefficients: Tensor,
    step: Tensor,
) -> None:
    """See `pipelines.kernels.diffusion_step`."""
    on_x, on_eps, on_clean, on_x_again, on_noise = coefficients.index_select(0, step)[0].unbind()
    predicted = eps.to(x.dtype)
    if eps_bias is not None:
        predicted = predicted + _column(eps_bias)
    clean = (x * on_x).sub_(predicted * on_eps).clamp_(-1, 1)
    x.mul_(on_x_again).add_(clean.mul_(on_clean)).add_(noise * on_noise)
