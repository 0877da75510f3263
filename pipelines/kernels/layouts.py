"""Which arguments the Triton kernels take; everything else goes to the reference."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, bfloat16, channels_last, dtype, float16, float32, int8, int32, int64

_FLOATS = (float16, float32)


def _feature_map(x: Tensor) -> bool:
    """[B, C, H, W], dense NHWC memory."""
    return (
        x.dtype in _FLOATS
        and x.dim() == 4
        and x.numel() > 0
        and x.is_contiguous(memory_format=channels_last)
    )


def _vectors(x: Tensor, *vectors: Tensor | None) -> bool:
    """Each is [C], dense, on the device of x, or left out."""
    return all(
        v is None
        or (
            v.dtype in _FLOATS
            and v.shape == x.shape[1:2]
            and v.device == x.device
            and v.is_contiguous()
        )
        for v in vectors
    )


def statistics_fit(x: Tensor, groups: int, shift: Tensor | None = None) -> bool:
    """For `group_statistics`."""
    return _feature_map(x) and x.shape[1] % groups == 0 and _vectors(x, shift)


def norm_fits(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    shift: Tensor | None = None,
    silu: bool = True,
) -> bool:
    """For `group_norm`."""
    return statistics_fit(x, groups, shift) and _vectors(x, weight, bias)


def normalize_fits(
    x: Tensor,
    statistics: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    shift: Tensor | None = None,
    silu: bool = True,
) -> bool:
    """For `group_normalize`."""
    return (
        _feature_map(x)
        and statistics.dtype == float32
        and statistics.is_contiguous()
        and statistics.device == x.device
        and statistics.dim() == 3
        and statistics.shape[0] in (1, x.shape[0])
        and statistics.shape[2] == 2
        and x.shape[1] % statistics.shape[1] == 0
        and _vectors(x, weight, bias, shift)
    )


def residual_fits(x: Tensor, residual: Tensor, shift: Tensor | None = None) -> bool:
    """For `add_residual`."""
    return (
        _feature_map(x)
        and _feature_map(residual)
        and residual.shape == x.shape
        and residual.device == x.device
        and _vectors(x, shift)
    )


def geglu_fits(x: Tensor) -> bool:
    """For `geglu`."""
    return x.dtype in _FLOATS and x.numel() > 0 and x.is_contiguous() and x.shape[-1] % 2 == 0


def images_fit(output: Tensor, source: Tensor) -> bool:
    """For `wavelet_color_fix`; any strides."""
    return (
        output.dtype == source.dtype == float32
        and output.dim() == 3
        and output.shape == source.shape
        and output.device == source.device
        and output.numel() > 0
    )


def lora_fits(master: Tensor, mixed: Tensor, down: Tensor, scale: float, out: Tensor) -> bool:
    """For `merge_lora`."""
    tensors = (master, mixed, down, out)
    if not all(
        t.dtype in _FLOATS and t.dim() == 3 and t.is_contiguous() and t.device == master.device
        for t in tensors
    ):
        return False
    layers, outputs, inputs = master.shape
    rank = mixed.shape[2]
    return (
        master.numel() > 0
        and out.shape == master.shape
        and mixed.shape == (layers, outputs, rank)
        and down.shape == (layers, rank, inputs)
    )


def _beside(x: Tensor, other: Tensor | None, *shapes: tuple[int, ...]) -> bool:
    """A feature map of one of these shapes, on the device of x, or left out."""
    return other is None or (
        _feature_map(other) and tuple(other.shape) in shapes and other.device == x.device
    )


def mish_fits(
    x: Tensor,
    bias: Tensor | None = None,
    residual: Tensor | None = None,
    residual_bias: Tensor | None = None,
    extra: Tensor | None = None,
    pad: int = 1,
    mish: bool = True,
) -> bool:
    """For `mish_pad`."""
    if not (_feature_map(x) and pad in (0, 1) and min(x.shape[2:]) > pad):
        return False
    batch, channels, height, width = x.shape
    padded = batch, channels, height + 2, width + 2
    return (
        _vectors(x, bias, residual_bias)
        and _beside(x, residual, tuple(x.shape), padded)
        and _beside(x, extra, tuple(x.shape), (1, channels, height, width))
    )


def concat_fits(x: Tensor, bias: Tensor | None, skip: Tensor) -> bool:
    """For `pad_concat`."""
    if not (_feature_map(x) and min(x.shape[2:]) > 1 and skip.dim() == 4):
        return False
    batch, _, height, width = x.shape
    return (
        skip.dtype == x.dtype
        and _beside(x, skip, (batch, skip.shape[1], height + 2, width + 2))
        and _vectors(x, bias)
    )


def step_fits(
    x: Tensor,
    eps: Tensor,
    eps_bias: Tensor | None,
    noise: Tensor,
    coefficients: Tensor,
    step: Tensor,
) -> bool:
    """For `diffusion_step`; NCHW or NHWC memory, each as it likes."""
    images = (x, eps, noise)
    return (
        x.dim() == 4
        and x.numel() > 0
        and x.shape[1] <= 16
        and all(i.shape == x.shape for i in images)
        and all(i.is_contiguous() or i.is_contiguous(memory_format=channels_last) for i in images)
        and x.dtype == noise.dtype == coefficients.dtype == float32
        and eps.dtype in (*_FLOATS, bfloat16)
        and step.dtype == int64
        and step.numel() == 1
        and coefficients.is_contiguous()
        and coefficients.shape[1:] == (5,)
        and all(t.device == x.device for t in (*images, coefficients, step))
        and _vectors(x, eps_bias)
    )


def _quantizer(channels: int, like: Tensor, quantizer: Tensor) -> bool:
    """[3, C], on the device of `like`."""
    return (
        quantizer.dtype == float32
        and quantizer.shape == (3, channels)
        and quantizer.is_contiguous()
        and quantizer.device == like.device
    )


def _rows(x: Tensor, dtypes: Sequence[dtype] = _FLOATS) -> bool:
    return x.dtype in dtypes and x.numel() > 0 and x.is_contiguous()


def codes_fit(x: Tensor, quantizer: Tensor, levels: int) -> bool:
    """For `quantize_channels`."""
    return _rows(x) and _quantizer(x.shape[-1], x, quantizer)


def fp8_codes_fit(x: Tensor, quantizer: Tensor) -> bool:
    """For `quantize_fp8`."""
    return (
        _rows(x)
        and quantizer.dtype == float32
        and quantizer.shape == (2, x.shape[-1])
        and quantizer.is_contiguous()
        and quantizer.device == x.device
    )


def geglu_codes_fit(x: Tensor, quantizer: Tensor, levels: int) -> bool:
    """For `geglu_quantize`."""
    return geglu_fits(x) and _quantizer(x.shape[-1] // 2, x, quantizer)


LONGEST_ROW = 4096
"""Channels of a LayerNorm whose rows are held in registers."""
MOST_READERS = 3
"""Layers behind a LayerNorm whose codes one kernel writes: queries, keys and values."""


def layer_norm_codes_fit(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    quantizers: Sequence[Tensor],
    levels: int,
) -> bool:
    """For `layer_norm_quantize`."""
    channels = x.shape[-1]
    return (
        _rows(x)
        and channels <= LONGEST_ROW
        and 1 <= len(quantizers) <= MOST_READERS
        and _vectors(x.view(-1, channels), weight, bias)
        and all(_quantizer(channels, x, quantizer) for quantizer in quantizers)
    )


def normalize_codes_fit(
    x: Tensor,
    statistics: Tensor,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    shift: Tensor | None,
    silu: bool,
    quantizer: Tensor,
    levels: int,
) -> bool:
    """For `group_normalize_quantize`."""
    return normalize_fits(x, statistics, weight, bias, eps, shift) and _quantizer(
        x.shape[1], x, quantizer
    )


def norm_codes_fit(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    shift: Tensor | None,
    silu: bool,
    quantizer: Tensor,
    levels: int,
) -> bool:
    """For `group_norm_quantize`."""
    return norm_fits(x, groups, weight, bias, eps, shift) and _quantizer(x.shape[1], x, quantizer)


def _product_fits(
    codes: Tensor,
    weight: Tensor,
    scales: Tensor,
    correction: Tensor,
    bias: Tensor,
    result: dtype,
) -> bool:
    vectors = (scales, correction, bias)
    return (
        codes.dtype == weight.dtype == int8
        and codes.numel() > 0
        and correction.dtype == int32
        and scales.dtype == bias.dtype == float32
        and result in _FLOATS
        and all(t.is_contiguous() and t.device == codes.device for t in (weight, *vectors))
    )


def int8_linear_fits(
    codes: Tensor,
    weight: Tensor,
    scales: Tensor,
    correction: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    result: dtype,
) -> bool:
    """For `static_int8_linear`: rows of codes at equal distances."""
    steps = zip(codes.shape[1:-1], codes.stride()[:-2], codes.stride()[1:-1], strict=True)
    shape = (*codes.shape[:-1], weight.shape[0])
    return (
        _product_fits(codes, weight, scales, correction, bias, result)
        and codes.stride(-1) == 1
        and all(outer == inner * length for length, outer, inner in steps)
        and (residual is None or (_rows(residual) and residual.shape == shape))
        and (residual is None or residual.device == codes.device)
    )


def int8_conv_fits(
    codes: Tensor,
    weight: Tensor,
    scales: Tensor,
    correction: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    size: Sequence[int],
    stride: int,
    padding: Sequence[int],
    result: dtype,
) -> bool:
    """For `static_int8_conv`: pixels of codes at equal distances; 1x1 reads the map as it is."""
    batch, _, height, width = codes.shape
    pixel, kernel = codes.stride(3), weight.shape[1]
    sides = [(side + sum(padding) - kernel) // stride + 1 for side in size]
    as_it_is = [*size] == [height, width] and not any(padding)
    return (
        _product_fits(codes, weight, scales, correction, bias, result)
        and codes.stride() == (height * width * pixel, 1, width * pixel, pixel)
        and (kernel > 1 or as_it_is)
        and _beside(codes, residual, (batch, weight.shape[0], *sides))
    )
