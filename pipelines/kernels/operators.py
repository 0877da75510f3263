"""Registration: every kernel is one operator of namespace `pipelines`, whatever the device."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from pipelines.kernels import layouts, reference

_LIBRARY = torch.library.Library("pipelines", "FRAGMENT")
_TAGS = (torch.Tag.pt2_compliant_tag, torch.Tag.needs_fixed_stride_order)
OLDEST_CARD = (8, 0)
"""Compute capability from which the kernels run."""

_VECTORS = "Tensor weight, Tensor bias, float eps, Tensor? shift=None, bool silu=True"


def namespace() -> Any:
    """The operators."""
    return torch.ops.pipelines


@cache
def _launcher(module: str, name: str) -> Callable[..., Any] | None:
    """The function that launches the kernel; None where Triton is missing or broken."""
    if find_spec("triton") is None:
        return None
    try:
        launcher: Callable[..., Any] = getattr(import_module(module), name)
    except ImportError:
        return None
    return launcher


@cache
def _card_runs_triton(index: int) -> bool:
    return torch.cuda.get_device_capability(index) >= OLDEST_CARD


def on_cuda(
    fallback: Callable[..., Any], module: str, name: str, wanted: Callable[..., bool]
) -> Callable[..., Any]:
    """An operator's implementation for CUDA tensors.

    Args:
        fallback: In PyTorch; takes all arguments, on any card.
        module: Where the kernel's launcher is; imported when the first CUDA tensor comes.
        name: Of the launcher.
        wanted: Whether the kernel takes these arguments.
    """

    def run(*args: Any) -> Any:
        device = args[0].device
        if not (_card_runs_triton(device.index) and wanted(*args)):
            return fallback(*args)
        launch = _launcher(module, name)
        if launch is None:
            return fallback(*args)
        if device.index == torch.cuda.current_device():
            return launch(*args)
        with torch.cuda.device(device):
            return launch(*args)

    return run


def _register(
    name: str, signature: str, module: str, wanted: Callable[..., bool], meta: Callable[..., Any]
) -> None:
    """Define `name` on every device.

    Args:
        name: Of the operator, of its reference and of its launcher in `triton_<module>`.
        signature: Arguments and result, in the language of operator schemas.
        module: Imported when the first CUDA tensor comes.
        wanted: Whether the kernel takes these arguments; the reference takes all.
        meta: Its result without numbers.
    """
    _LIBRARY.define(name + signature, tags=_TAGS)
    _LIBRARY.impl(name, getattr(reference, name), "CPU")
    launcher = f"pipelines.kernels.triton_{module}", name
    _LIBRARY.impl(name, on_cuda(getattr(reference, name), *launcher, wanted), "CUDA")
    _LIBRARY.impl(name, meta, "Meta")


def _empty_statistics(x: torch.Tensor, groups: int, shift: Any = None) -> torch.Tensor:
    wide = torch.float64 if x.dtype == torch.float64 else torch.float32
    return x.new_empty((x.shape[0], groups, 2), dtype=wide)


def _like_first(x: torch.Tensor, *_: Any) -> torch.Tensor:
    return torch.empty_like(x)


def _half_as_wide(x: torch.Tensor) -> torch.Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


def _empty_image(output: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    return output.new_empty(output.shape, dtype=torch.float32)


def _empty_padded(
    x: torch.Tensor,
    bias: Any = None,
    residual: Any = None,
    residual_bias: Any = None,
    extra: Any = None,
    pad: int = 1,
    mish: bool = True,
) -> torch.Tensor:
    return reference.empty_padded(x, x.shape[1], pad)


def _empty_concatenation(x: torch.Tensor, bias: Any, skip: torch.Tensor) -> torch.Tensor:
    return reference.empty_padded(x, x.shape[1] + skip.shape[1], 1)


def _nothing(*_: Any) -> None:
    return None


_register(
    "group_statistics",
    "(Tensor x, int groups, Tensor? shift=None) -> Tensor",
    "norm",
    layouts.statistics_fit,
    _empty_statistics,
)
_register(
    "group_normalize",
    f"(Tensor x, Tensor statistics, {_VECTORS}) -> Tensor",
    "norm",
    layouts.normalize_fits,
    _like_first,
)
_register(
    "group_norm",
    f"(Tensor x, int groups, {_VECTORS}) -> Tensor",
    "small_norm",
    layouts.norm_fits,
    _like_first,
)
_register(
    "add_residual",
    "(Tensor x, Tensor residual, Tensor? shift=None) -> Tensor",
    "pointwise",
    layouts.residual_fits,
    _like_first,
)
_register("geglu", "(Tensor x) -> Tensor", "pointwise", layouts.geglu_fits, _half_as_wide)
_register(
    "wavelet_color_fix",
    "(Tensor output, Tensor source) -> Tensor",
    "color",
    layouts.images_fit,
    _empty_image,
)
_register(
    "merge_lora",
    "(Tensor master, Tensor mixed, Tensor down, float scale, Tensor(a!) out) -> ()",
    "lora",
    layouts.lora_fits,
    _nothing,
)
_register(
    "mish_pad",
    "(Tensor x, Tensor? bias=None, Tensor? residual=None, Tensor? residual_bias=None, "
    "Tensor? extra=None, int pad=1, bool mish=True) -> Tensor",
    "mish",
    layouts.mish_fits,
    _empty_padded,
)
_register(
    "pad_concat",
    "(Tensor x, Tensor? bias, Tensor skip) -> Tensor",
    "mish",
    layouts.concat_fits,
    _empty_concatenation,
)
_register(
    "diffusion_step",
    "(Tensor(a!) x, Tensor eps, Tensor? eps_bias, Tensor noise, Tensor coefficients, "
    "Tensor step) -> ()",
    "diffusion",
    layouts.step_fits,
    _nothing,
)

# A few launches of PyTorch on any device; an operator so that the counter sees one.
_LIBRARY.define("merge_statistics(Tensor[] statistics, int[] areas) -> Tensor", tags=_TAGS)
_LIBRARY.impl("merge_statistics", reference.merge_statistics, "CompositeExplicitAutograd")


@register_flop_formula(torch.ops.pipelines.merge_lora)
def _merge_flops(master: Any, mixed: Any, *_: Any, **__: Any) -> int:
    layers, outputs, inputs = master
    return int(2 * layers * outputs * inputs * mixed[-1])
