"""Exact work counters: FLOPs, bytes, operator launches, network calls, parked and live bytes.

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
from collections.abc import Callable, Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from pipelines.contract import OperatorCount, WorkCounts, listening
from pipelines.traffic import (
    Traffic,
    attention_flops,
    attention_traffic,
    operator_flops,
    operator_traffic,
)

_active: WorkCounter | None = None

Call = tuple[str, str, int, int, int, int]
"""The fields of `pipelines.contract.OperatorCount` but the last: what makes two calls alike."""

_NO_KERNEL = frozenset(
    {
        *("aten.empty", "aten.empty_strided", "aten.empty_like", "aten.new_empty"),
        *("aten.new_empty_strided", "aten.detach", "aten.detach_", "aten.lift_fresh"),
        *("aten._local_scalar_dense", "aten._unsafe_view"),
    }
)


def is_counting() -> bool:
    """Whether a counter is active: what hides operators (a replayed graph) must then run them."""
    return _active is not None


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

    operators: Counter[Call]
    calls: Counter[str]
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
        traffic = attention_traffic(query, key, value, self.counter.is_weight)
        with self.counter.fused(attention_flops(query, key, value), traffic):
            if query.is_meta:
                return _attention_result(query, value)
            return func(*args, **kwargs)


class _Operators(TorchDispatchMode):
    """Sees every dispatched operator; composite ones are taken apart first."""

    def __init__(self, counter: WorkCounter) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counter = counter
        self.whole: set[Any] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if func not in self.whole and func._overloadpacket not in flop_registry:
            with self, self.counter.autocast_again():
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
            self.whole.add(func)
        result = func(*args, **kwargs)
        self.counter.see(func, result, args, kwargs)
        return result


class WorkCounter:
    """Context manager that counts one image; stages are those of `pipelines.contract.stage`.

    Storage that existed before (weights, caches) is not counted as live.
    """

    def __init__(self) -> None:
        self.operators: Counter[Call] = Counter()
        self.calls: Counter[str] = Counter()
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
            self.operators.update(seen.operators)
            self.calls.update(seen.calls)
            self.host_device_bytes += seen.host_device_bytes
            return torch.empty(seen.shape, dtype=seen.dtype, device="meta")
        operators, calls = self.operators.copy(), self.calls.copy()
        parked = self.host_device_bytes
        result = run()
        if result.is_meta:
            self._recorded[key] = _Recording(
                operators=self.operators - operators,
                calls=self.calls - calls,
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

    @contextmanager
    def fused(self, flops: int, traffic: Traffic) -> Iterator[None]:
        """Count everything inside as one launch of known FLOPs and bytes."""
        self.depth += 1
        try:
            yield
        finally:
            self.depth -= 1
        self.launched(flops, traffic)

    def launched(self, flops: int, traffic: Traffic) -> None:
        """Add one operator to the current stage."""
        moved = (traffic.ideal_bytes, traffic.eager_bytes, traffic.weight_bytes)
        self.operators[(self._stage, traffic.kind, flops, *moved)] += 1

    def is_weight(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor was there before the image."""
        return tensor.untyped_storage()._cdata not in self._storages

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
        if not self.depth and not func.is_view and str(func._overloadpacket) not in _NO_KERNEL:
            traffic = operator_traffic(func, args, kwargs, result, self.is_weight)
            self.launched(operator_flops(func, args, kwargs, result), traffic)
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
        flops: Counter[str] = Counter()
        for (stage, _, each, *_), count in self.operators.items():
            if each:
                flops[stage] += each * count
        return WorkCounts(
            flops=dict(flops),
            launches=self.operators.total(),
            calls=dict(self.calls),
            host_device_bytes=self.host_device_bytes,
            peak_tensor_bytes=self.peak_bytes,
            operators=tuple(
                sorted(OperatorCount(*call, count) for call, count in self.operators.items())
            ),
        )
