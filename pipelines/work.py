"""Exact work counters: FLOPs, operator launches, network calls, parked bytes, live tensor bytes.

They are the same on every run of the same code, so they gate without a GPU. FLOPs follow
`torch.utils.flop_counter`'s formulas (2 per multiply-add); fused attention is counted as one launch
with the FLOPs of its two matrix products on every device.

FLOPs, calls and parked bytes are the same on every device. Launches are those of the device they
were counted on: the meta device counts copies between devices that a CPU does not make and runs no
branch that needs numbers, and backends prefer other memory layouts. Compare like with like.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from pipelines.contract import WorkCounts, listening

_active: WorkCounter | None = None

_NO_KERNEL = frozenset(
    {
        "aten.empty",
        "aten.empty_strided",
        "aten.empty_like",
        "aten.new_empty",
        "aten.detach",
        "aten.detach_",
        "aten._local_scalar_dense",
        "aten._unsafe_view",
        "aten.lift_fresh",
        "aten.new_empty_strided",
    }
)


def note_call(network: str, samples: int = 1) -> None:
    """Tell the active counter that `network` ran on `samples` samples; free when none counts."""
    if _active is not None:
        _active.calls[network] += samples


def note_transfer(tensor: torch.Tensor) -> None:
    """Tell the active counter that a tensor is parked on the host or fetched back."""
    if _active is not None:
        _active.host_device_bytes += tensor.numel() * tensor.element_size()


def _autocast_device() -> str | None:
    for device in ("cuda", "cpu"):
        if torch.is_autocast_enabled(device):
            return device
    return None


def replayed(key: Hashable, run: Callable[[], torch.Tensor]) -> torch.Tensor:
    """Run a call that repeats alike (a UNet tile); on the meta device count it only once.

    Outside a counter, or where the result has numbers, this is `run()`. A second call with an equal
    key adds what the first one counted and returns an empty tensor of the same shape.
    """
    if _active is None:
        return run()
    return _active.replay(key, run)


def _attention_flops(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> int:
    *batch, tokens, depth = query.shape
    heads = 1
    for size in batch:
        heads *= size
    return 2 * heads * tokens * key.shape[-2] * (depth + value.shape[-1])


def _attention_result(query: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Empty result in the layout of the fused kernels: [batch, tokens, heads, depth] in memory.

    The layout decides whether the projection after it needs a copy, so it shows in the launches.
    """
    if query.dim() != 4:
        return query.new_empty((*query.shape[:-1], value.shape[-1]))
    batch, heads, tokens, _ = query.shape
    return query.new_empty((batch, tokens, heads, value.shape[-1])).transpose(1, 2)


@dataclass(frozen=True, slots=True)
class _Recording:
    """What a call counted, and how its result looks: to keep the result would keep it alive."""

    flops: Counter[str]
    calls: Counter[str]
    launches: int
    host_device_bytes: int
    shape: torch.Size
    dtype: torch.dtype


class _Functions(TorchFunctionMode):
    """Sees calls before dispatch: attention before it picks a device's kernel, and autocast."""

    def __init__(self, counter: WorkCounter) -> None:
        super().__init__()
        self.counter = counter

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        self.counter.autocast = _autocast_device()
        if func is not torch.nn.functional.scaled_dot_product_attention:
            return func(*args, **kwargs)
        query = kwargs.get("query", args[0] if args else None)
        key = kwargs.get("key", args[1] if len(args) > 1 else None)
        value = kwargs.get("value", args[2] if len(args) > 2 else None)
        with self.counter.fused(_attention_flops(query, key, value)):
            if query.is_meta:
                return _attention_result(query, value)
            return func(*args, **kwargs)


class _Fused:
    """Counts everything inside as one launch of known FLOPs."""

    def __init__(self, counter: WorkCounter, flops: int) -> None:
        self.counter, self.flops = counter, flops

    def __enter__(self) -> None:
        self.counter.depth += 1

    def __exit__(self, *_: object) -> None:
        self.counter.depth -= 1
        self.counter.add_flops(self.flops)
        self.counter.launches += 1


class _Operators(TorchDispatchMode):
    """Sees every dispatched operator; composite ones are taken apart first."""

    def __init__(self, counter: WorkCounter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counter = counter

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func._overloadpacket not in flop_registry:
            with self, self.counter.autocast_again():
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        self.counter.see(func, result, args, kwargs)
        return result


class WorkCounter:
    """Context manager that counts one image; stages are those of `pipelines.contract.stage`.

    Storage that existed before (weights, caches) is not counted as live.
    """

    def __init__(self) -> None:
        self.flops: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.launches = 0
        self.host_device_bytes = 0
        self.peak_bytes = 0
        self.depth = 0
        self.autocast: str | None = None
        self._live_bytes = 0
        self._stage = "other"
        self._storages: dict[int, weakref.ref[Any]] = {}
        self._recorded: dict[Hashable, _Recording] = {}
        self._modes = (_Functions(self), _Operators(self))
        self._listening = listening(self)

    def enter(self, name: str) -> None:
        """A stage begins."""
        self._stage = name

    def exit(self, name: str) -> None:
        """A stage ends."""
        self._stage = "other"

    def replay(self, key: Hashable, run: Callable[[], torch.Tensor]) -> torch.Tensor:
        """See `replayed`."""
        seen = self._recorded.get(key)
        if seen is not None:
            self.flops.update(seen.flops)
            self.calls.update(seen.calls)
            self.launches += seen.launches
            self.host_device_bytes += seen.host_device_bytes
            return torch.empty(seen.shape, dtype=seen.dtype, device="meta")
        flops, calls = self.flops.copy(), self.calls.copy()
        launches, parked = self.launches, self.host_device_bytes
        result = run()
        if result.is_meta:
            self._recorded[key] = _Recording(
                flops=self.flops - flops,
                calls=self.calls - calls,
                launches=self.launches - launches,
                host_device_bytes=self.host_device_bytes - parked,
                shape=result.shape,
                dtype=result.dtype,
            )
        return result

    def autocast_again(self) -> AbstractContextManager[object]:
        """Autocast as the caller has it: below the dispatcher it is already passed."""
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(self.autocast, torch.get_autocast_dtype(self.autocast))

    def fused(self, flops: int) -> _Fused:
        """Count the block as one launch of `flops`."""
        return _Fused(self, flops)

    def add_flops(self, flops: int) -> None:
        """Add to the current stage."""
        self.flops[self._stage] += flops

    def __enter__(self) -> Self:
        global _active
        if _active is not None:
            raise RuntimeError("work counters do not nest")
        _active = self
        self._listening.__enter__()
        for mode in self._modes:
            mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        global _active
        for mode in reversed(self._modes):
            mode.__exit__(*error)  # type: ignore[no-untyped-call]
        self._listening.__exit__(*error)
        _active = None

    def see(self, func: Any, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Count one operator and watch the storage it made."""
        if not self.depth:
            packet = func._overloadpacket
            formula: Callable[..., int] | None = flop_registry.get(packet)
            if formula is not None:
                self.add_flops(formula(*args, **kwargs, out_val=result))
            if not func.is_view and str(packet) not in _NO_KERNEL:
                self.launches += 1
        self._track(result, args, kwargs)

    def _track(self, result: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given: set[int] | None = None
        for tensor in tree_leaves(result):
            if not isinstance(tensor, torch.Tensor):
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._storages:
                continue
            if given is None:
                given = {
                    leaf.untyped_storage()._cdata
                    for leaf in tree_leaves((args, kwargs))
                    if isinstance(leaf, torch.Tensor)
                }
            if key not in given:
                self._watch(storage, key)

    def _watch(self, storage: torch.UntypedStorage, key: int) -> None:
        size = storage.nbytes()

        def freed(_: object) -> None:
            del self._storages[key]
            self._live_bytes -= size

        self._storages[key] = weakref.ref(storage, freed)
        self._live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)

    def counts(self) -> WorkCounts:
        """What was counted."""
        return WorkCounts(
            flops=dict(self.flops),
            launches=self.launches,
            calls=dict(self.calls),
            host_device_bytes=self.host_device_bytes,
            peak_tensor_bytes=self.peak_bytes,
        )
