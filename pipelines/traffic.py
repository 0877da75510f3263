"""What one launched operator computes and moves: its kind, and bytes by two rules.

Eager: it reads every input and writes every output, as a kernel of its own does. Ideal: matrix
products, convolutions and attention read each input and write each output once, and everything else
is fused into them. Bytes are those of the tensors seen, so on the meta device those of its dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any

import torch
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

LARGEST_RANK = 64
"""Batched products with a factor of at most this squared are an adapter's modulation, which is
linear; of two larger ones, neither of them a weight, they are attention without a kernel."""

_KINDS = {
    "aten.convolution": "conv",
    "aten._convolution": "conv",
    "aten.mm": "linear",
    "aten.addmm": "linear",
    "aten.bmm": "linear",
    "aten.baddbmm": "linear",
    "pipelines.merge_lora": "linear",
    "pipelines.int8_linear": "linear",
    "pipelines.static_int8_linear": "int8_linear",
    "pipelines.static_int8_conv": "int8_conv",
    "pipelines.fp8_linear": "fp8_linear",
    "aten.native_group_norm": "norm",
    "aten.native_layer_norm": "norm",
    "aten.native_batch_norm": "norm",
    "aten.var_mean": "norm",
    "pipelines.group_norm": "norm",
    "pipelines.group_statistics": "norm",
    "pipelines.group_normalize": "norm",
    "pipelines.group_norm_quantize": "norm",
    "pipelines.group_normalize_quantize": "norm",
    "pipelines.layer_norm_quantize": "norm",
    "pipelines.merge_statistics": "norm",
}
_BATCHED = ("aten.bmm", "aten.baddbmm")
MATRIX_KINDS = ("conv", "linear", "attention", "int8_conv", "int8_linear", "fp8_linear")
"""Kinds that no other operator can be fused into: they alone move ideal bytes."""

_READ_TWICE = (
    "aten.native_group_norm",
    "pipelines.group_norm",
    "pipelines.group_norm_quantize",
)
"""Statistics first, then the values again: no map of ours stays in registers between the two."""

_ROWS_ONLY = ("aten.embedding", "aten.index", "aten.index_select", "aten.gather")
"""They read of their first input only what they write."""

_OVERWRITE = ("aten.copy_", "aten.zero_", "aten.fill_")
"""In place, but without reading what was there."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """Of one launched operator: the fields of `pipelines.contract.OperatorCount`."""

    kind: str
    ideal_bytes: int
    eager_bytes: int
    weight_bytes: int


def operator_flops(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    """Of a dispatched operator, 2 per multiply-add; 0 where it multiplies no matrices.

    Our own operators register their formulas with torch beside their definitions.
    """
    formula: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
    return 0 if formula is None else int(formula(*args, **kwargs, out_val=result))


def attention_flops(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> int:
    """Of the two matrix products inside fused attention."""
    heads, tokens, depth = prod(query.shape[:-2]), query.shape[-2], query.shape[-1]
    return 2 * heads * tokens * key.shape[-2] * (depth + value.shape[-1])


def touched_bytes(tensor: torch.Tensor) -> int:
    """Bytes of memory behind a tensor; what is expanded (stride 0) is there once."""
    sizes = (
        size
        for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
        if stride or not size
    )
    return prod(sizes) * tensor.element_size()


def operator_traffic(
    func: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    result: Any,
    is_weight: Callable[[torch.Tensor], bool],
) -> Traffic:
    """Of a dispatched operator.

    Args:
        func: The overload.
        args: As dispatched.
        kwargs: As dispatched.
        result: What it returned.
        is_weight: Whether a tensor was there before the image.
    """
    name = str(func._overloadpacket)
    kind = _kind(name, args, is_weight)
    written = {id(tensor): tensor for tensor in _tensors((result, _mutated(func, args, kwargs)))}
    output = sum(map(touched_bytes, written.values()))
    return _traffic(kind, _read(name, args, kwargs, written, output), output, is_weight)


def attention_traffic(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    is_weight: Callable[[torch.Tensor], bool],
) -> Traffic:
    """Of fused attention: queries, keys and values in, as many rows as queries out; no scores."""
    output = touched_bytes(query) // query.shape[-1] * value.shape[-1]
    read = [(tensor, touched_bytes(tensor)) for tensor in (query, key, value)]
    return _traffic("attention", read, output, is_weight)


def _traffic(
    kind: str,
    read: list[tuple[torch.Tensor, int]],
    output: int,
    is_weight: Callable[[torch.Tensor], bool],
) -> Traffic:
    moved = output + sum(size for _, size in read)
    return Traffic(
        kind=kind,
        ideal_bytes=moved if kind in MATRIX_KINDS else 0,
        eager_bytes=moved,
        weight_bytes=sum(size for tensor, size in read if is_weight(tensor)),
    )


def _kind(name: str, args: tuple[Any, ...], is_weight: Callable[[torch.Tensor], bool]) -> str:
    if name not in _BATCHED:
        return _KINDS.get(name, "other")
    factors = args[-2:]
    smaller = min(prod(factor.shape[-2:]) for factor in factors)
    if smaller <= LARGEST_RANK**2 or any(map(is_weight, factors)):
        return "linear"
    return "attention"


def _read(
    name: str,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    written: dict[int, torch.Tensor],
    output: int,
) -> list[tuple[torch.Tensor, int]]:
    """Tensors read, with the bytes read of each."""
    given = args[1:] if kwargs.get("beta") == 0 else args
    updated = name.endswith("_") and name not in _OVERWRITE
    read = [
        (tensor, touched_bytes(tensor))
        for tensor in _tensors((given, kwargs))
        if updated or id(tensor) not in written
    ]
    if read and name in _READ_TWICE:
        read.append(read[0])
    if read and name in _ROWS_ONLY:
        tensor, size = read[0]
        read[0] = tensor, min(size, output)
    return read


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    return (leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor))


@cache
def _mutated_arguments(func: Any) -> tuple[tuple[int, str], ...]:
    """Position and name of the arguments that the schema says are written."""
    return tuple(
        (position, argument.name)
        for position, argument in enumerate(func._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )


def _mutated(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    return [
        args[position] if position < len(args) else kwargs.get(name)
        for position, name in _mutated_arguments(func)
    ]
