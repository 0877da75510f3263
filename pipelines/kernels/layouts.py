"""Which arguments the Triton kernels take; everything else goes to the reference."""

from __future__ import annotations

from torch import Tensor, channels_last, float16, float32

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
