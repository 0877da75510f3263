"""Which arguments the Triton kernels take; everything else goes to the reference."""

from __future__ import annotations

from torch import Tensor, bfloat16, channels_last, float16, float32, int64

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
