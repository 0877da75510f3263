"""What runs on a machine of a cluster: one block of a run, or the judging of its pictures.

The coordinator and its workers are those of a run at home; what they store and say is streamed.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from queue import Queue
from typing import Any

from pipelines.contract import PipelineError
from srbench.continuing import refusal, same_machine
from srbench.coordinator import Coordinator
from srbench.errors import SrbenchError
from srbench.executors.cluster import live_nodes
from srbench.executors.messages import (
    BlockOrder,
    JudgeOrder,
    Kept,
    Note,
    Order,
    RefusedError,
    Started,
    Stored,
)
from srbench.fingerprint import code_digest
from srbench.heading import make_head
from srbench.judging import judge_run
from srbench.preparation import Preparation
from srbench.records import BlockRecord, CellRecord, Record, RunRecord
from srbench.registry import check_shared

Hand = Callable[[Any], None]
"""Takes an object for the driver."""

_AHEAD = 8
"""Objects that wait for Ray to take them: pictures of a large case are hundreds of megabytes."""

_LOST_S = 120.0
"""Longest that a picture is waited for that another machine keeps."""


def measure_block(code: str, packed: bytes) -> Iterator[Any]:
    """A task: measure one block; yields what `srbench.executors.messages` has for the driver.

    Args:
        code: Digest of the driver's code.
        packed: A pickled `BlockOrder`, not looked at before the code is known to be the same.

    Raises:
        RefusedError: This machine may not go on with the run.
        SrbenchError, PipelineError: As at home.
    """
    yield Started()
    _require_code(code)
    order: BlockOrder = pickle.loads(packed)
    with _at_home(order):
        yield from _streamed(lambda hand: _measure(order, hand))


def judge_pictures(code: str, packed: bytes, kept: Sequence[Any]) -> Iterator[Any]:
    """A task: judge the pictures of a run; yields as `measure_block`.

    Args:
        code: Digest of the driver's code.
        packed: A pickled `JudgeOrder`.
        kept: References of the paintings of its blocks; those that are lost are painted again.
    """
    yield Started()
    _require_code(code)
    order: JudgeOrder = pickle.loads(packed)
    with _at_home(order):
        yield from _streamed(lambda hand: _judge(order, kept, hand))


class _Teller:
    """Sink and observer of a coordinator whose terminal and file are elsewhere."""

    def __init__(self, hand: Hand, machine: dict[str, Any] | None = None) -> None:
        self._hand = hand
        self._machine = machine or {}

    def append(self, records: Sequence[Record]) -> None:
        self._hand(Stored([self._placed(record) for record in records]))

    def _placed(self, record: Record) -> Record:
        if not isinstance(record, BlockRecord):
            return record
        notes = [*record.notes, *_priority_notes()]
        return replace(record, notes=notes, fingerprint=self._machine)

    def cell_done(self, cell: CellRecord) -> None:
        """The driver tells it once it is stored."""

    def note(self, text: str) -> None:
        self._hand(Note(text))


def _priority_notes() -> list[str]:
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    if niceness <= 0:
        return []
    return [f"measured at niceness {niceness}: start Ray with RAY_worker_niceness=0"]


def _measure(order: BlockOrder, hand: Hand) -> None:
    preparation = _prepared(order, hand)
    with Coordinator(preparation.job, _Teller(hand)) as coordinator:
        machine = _entered(order, preparation, coordinator, hand)
        coordinator.gallery.told(order.elsewhere)
        coordinator.measure_block(order.index, _Teller(hand, machine), order.attempt)
        for painting in coordinator.gallery.packed():
            hand(Kept(painting.place, painting.hashes))
            hand(painting)


def _prepared(order: Order, hand: Hand) -> Preparation:
    def note(text: str) -> None:
        hand(Note(text))

    if order.head is None:
        return order.prepare(note)
    with _refusing():
        preparation = order.prepare(note)
    # The arms of a run that was begun are measured as they were then.
    return replace(preparation, job=replace(preparation.job, pairing=order.head.pairing))


def _entered(
    order: Order, preparation: Preparation, coordinator: Coordinator, hand: Hand
) -> dict[str, Any]:
    """Open the run here; returns this machine's fingerprint where the run began on another."""
    job = preparation.job
    with _refusing() if order.head else contextlib.nullcontext():
        facts = coordinator.open()
        names = [name for described in facts.described.values() for name in described.options]
        check_shared(job.assignments, names)
        head = _located(make_head(preparation, facts, list(order.argv), order.terms))
    if order.head is None:
        hand(Stored([head]))
        return {}
    if why := refusal(order.head, head):
        raise RefusedError(why)
    return {} if same_machine(order.head, head) else head.fingerprint


@contextlib.contextmanager
def _refusing() -> Iterator[None]:
    """What a run was begun with works somewhere: where it does not, that machine is unfit."""
    try:
        yield
    except (SrbenchError, PipelineError) as error:
        raise RefusedError(str(error)) from error


def _located(head: RunRecord) -> RunRecord:
    """With the machine's place in the cluster, as Ray knows it."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    kinds = next((node.accelerators for node in live_nodes(ray) if node.id == here), ())
    place = {"node": here[:12], "accelerators": list(kinds)}
    return replace(head, fingerprint={**head.fingerprint, **place})


def _judge(order: JudgeOrder, kept: Sequence[Any], hand: Hand) -> None:
    preparation = _prepared(order, hand)
    teller = _Teller(hand)
    with Coordinator(preparation.job, teller) as coordinator:
        coordinator.gallery.recall(order.cells)
        for reference in kept:
            _hang(coordinator, reference, hand)
        judge_run(coordinator, preparation.job, sink=teller, observer=teller, done=order.done)


def _hang(coordinator: Coordinator, reference: Any, hand: Hand) -> None:
    import ray
    from ray.exceptions import RayError

    try:
        painting = ray.get(reference, timeout=_LOST_S)
    except (RayError, TimeoutError):
        hand(Note("a picture was lost with the machine that painted it; it is painted again"))
    else:
        coordinator.gallery.hang(painting)


def _require_code(code: str) -> None:
    ours = code_digest()
    if ours != code:
        raise RefusedError(
            f"other code of srbench: {ours[:12]} there, {code[:12]} here; install the same on both"
        )


@contextlib.contextmanager
def _at_home(order: Order) -> Iterator[None]:
    """Surroundings as a run has at home: threads, priority and, where it exists, the folder."""
    os.environ.pop("OMP_NUM_THREADS", None)
    if order.threads is not None:
        os.environ["OMP_NUM_THREADS"] = order.threads
    # Ray gives its tasks a low priority, as their workers would inherit.
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)
    here = Path(order.folder)
    with contextlib.chdir(here) if here.is_dir() else contextlib.nullcontext():
        yield


def _streamed(work: Callable[[Hand], None]) -> Iterator[Any]:
    """What some work hands over while it works, and at its end what it raises."""
    handed: Queue[Any] = Queue(_AHEAD)
    raised: list[BaseException] = []
    end = object()

    def run() -> None:
        try:
            work(handed.put)
        except BaseException as error:  # noqa: BLE001  raised again where it is waited for
            raised.append(error)
        finally:
            handed.put(end)

    # A daemon: a task that Ray ends does not wait for it, and its workers leave with it.
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    while (item := handed.get()) is not end:
        yield item
    thread.join()
    if raised:
        raise raised[0]
