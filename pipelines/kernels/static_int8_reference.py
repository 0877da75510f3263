"""What the operators of `pipelines.kernels.static_int8` compute, in PyTorch, exact in integers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F

from pipelines.kernels import reference

Tensor = torch.Tensor

OFFSET = 128
"""Stored are code - 128."""
BORDER_CLASSES = 16
"""Of a 3x3 window: 1 if its first row is outside, 2 its last, 4 its first column, 8 its last."""
_EXACT_FLOAT32 = 2**24
"""Integers up to here are float32 numbers."""


def conv_size(size: Sequence[int], kernel: int, stride: int, padding: Sequence[int]) -> list[int]:
    """Height and width of a convolution's result."""
    return [(side + sum(padding) - kernel) // stride + 1 for side in size]


def border_classes(
    size: Sequence[int],
    kernel: int,
    stride: int,
    padding: Sequence[int],
    device: torch.device | str = "cpu",
) -> Tensor:
    """Which taps are outside, of every window: [H', W'] int64 below `BORDER_CLASSES`."""
    axes = []
    for side, length in zip(size, conv_size(size, kernel, stride, padding), strict=True):
        first = torch.arange(length, device=device) * stride - padding[0]
        axes.append((first < 0).long() + 2 * (first + kernel > side).long())
    return axes[0][:, None] + 4 * axes[1][None, :]


def _stored(x: Tensor, quantizer: Iterable[Tensor], levels: int) -> Tensor:
    """Codes - 128 of x; multiplier, offset and zero broadcast against it."""
    multiplier, offset, zero = quantizer
    scaled = (x.float() - offset).mul_(multiplier)
    codes = scaled.abs().add_(0.5).floor_().copysign_(scaled).sub_(zero)
    codes = codes.nan_to_num_(0.0, levels, 0.0).clamp_(0, levels)
    return codes.sub_(OFFSET).to(torch.int8)


def quantize_channels(x: Tensor, quantizer: Tensor, levels: int) -> Tensor:
    """See `pipelines.kernels.static_int8.quantize_channels`."""
    return _stored(x, quantizer.unbind(), levels).contiguous()


def _map_codes(y: Tensor, quantizer: Tensor, levels: int) -> Tensor:
    vectors = (vector[:, None, None] for vector in quantizer.unbind())
    return _stored(y, vectors, levels).contiguous(memory_format=torch.channels_last)


def group_normalize_quantize(
    x: Tensor,
    statistics: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    shift: Tensor | None,
    silu: bool,
    quantizer: Tensor,
    levels: int,
) -> Tensor:
    """See `pipelines.kernels.static_int8.group_normalize_quantize`."""
    y = reference.group_normalize(x.float(), statistics, weight, bias, eps, shift, silu)
    return _map_codes(y, quantizer, levels)


def group_norm_quantize(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    shift: Tensor | None,
    silu: bool,
    quantizer: Tensor,
    levels: int,
) -> Tensor:
    """See `pipelines.kernels.static_int8.group_norm_quantize`."""
    y = reference.group_norm(x.float(), groups, weight, bias, eps, shift, silu)
    return _map_codes(y, quantizer, levels)


def layer_norm_quantize(
    x: Tensor, weight: Tensor, bias: Tensor, eps: float, quantizers: list[Tensor], levels: int
) -> Tensor:
    """See `pipelines.kernels.static_int8.layer_norm_quantize`."""
    y = F.layer_norm(x.float(), x.shape[-1:], weight.float(), bias.float(), eps)
    return torch.stack([_stored(y, quantizer.unbind(), levels) for quantizer in quantizers])


def geglu_quantize(x: Tensor, quantizer: Tensor, levels: int) -> Tensor:
    """See `pipelines.kernels.static_int8.geglu_quantize`."""
    return _stored(reference.geglu(x.float()), quantizer.unbind(), levels)


def _finished(
    total: Tensor, scales: Tensor, bias: Tensor, residual: Tensor | None, dtype: torch.dtype
) -> Tensor:
    """Exact sums [..., N] in float64, corrected, -> [..., N] with one rounding a step."""
    result = total.float().mul_(scales).add_(bias)
    if residual is not None:
        result = result.add_(residual.float())
    return result.to(dtype)


def static_int8_linear(
    codes: Tensor,
    weight: Tensor,
    scales: Tensor,
    correction: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    """See `pipelines.kernels.static_int8.static_int8_linear`."""
    # In float64, which holds every sum: oneDNN's int8 products saturate in 16 bits without VNNI.
    total = (codes.double() @ weight.double().t()).add_(correction[0])
    return _finished(total, scales, bias[0], residual, dtype)


def _exact_conv(codes: Tensor, weight: Tensor, stride: int) -> Tensor:
    """Sums of an unpadded convolution: codes [B, C, h, w] and weight [O, C, k, k] -> float64.

    On a CPU in float32, a third to a seventh of the time, for so few channels together that every
    sum stays below 2^24 and is exact.
    """
    if codes.device.type != "cpu":
        return F.conv2d(codes.double(), weight.double(), stride=stride)
    channels = _EXACT_FLOAT32 // (OFFSET * OFFSET * weight.shape[2] * weight.shape[3])
    parts = zip(codes.split(channels, dim=1), weight.split(channels, dim=1), strict=True)
    sums = [F.conv2d(c.float(), w.float(), stride=stride) for c, w in parts]
    return torch.stack(sums).sum(dim=0, dtype=torch.float64)


def static_int8_conv(
    codes: Tensor,
    weight: Tensor,
    scales: Tensor,
    correction: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    size: list[int],
    stride: int,
    padding: list[int],
    dtype: torch.dtype,
) -> Tensor:
    """See `pipelines.kernels.static_int8.static_int8_conv`."""
    if list(codes.shape[2:]) != list(size):
        rows, columns = (torch.arange(side, device=codes.device) // 2 for side in size)
        codes = codes[:, :, rows][..., columns]
    before, after = padding
    padded = F.pad(codes, (before, after, before, after))
    total = _exact_conv(padded, weight.permute(0, 3, 1, 2), stride).permute(0, 2, 3, 1)
    if correction.shape[0] == 1:
        corrections, biases = correction[0], bias[0]
    else:
        classes = border_classes(size, weight.shape[1], stride, padding, codes.device)
        corrections, biases = correction[classes], bias[classes]
    beside = None if residual is None else residual.permute(0, 2, 3, 1)
    result = _finished(total + corrections, scales, biases, beside, dtype)
    return result.contiguous().permute(0, 3, 1, 2)
