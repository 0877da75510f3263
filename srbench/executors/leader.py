"""One run on a cluster, seen from its driver: blocks sent out one by one, records written here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from pipelines.contract import PipelineError
from srbench.coordinator import MAX_ATTEMPTS, utc_now
from srbench.errors import InfrastructureError, SrbenchError
from srbench.executors import node as tasks
from srbench.executors.cluster import Node
from srbench.executors.messages import (
    BlockOrder,
    JudgeOrder,
    Kept,
    Note,
    Order,
    Prepare,
    RefusedError,
    Stored,
)
from srbench.executors.nodes import Nodes, card_kind
from srbench.executors.stream import LostError, StoppedError, Stream
from srbench.gallery import Place
from srbench.heading import start_of_run
from srbench.locks import measuring_into
from srbench.plan import Plan
from srbench.profiles import Profile
from srbench.records import BlockRecord, CellRecord, Record, Run, RunRecord, VoidRecord
from srbench.running import Conduct, conclude, empty_run, judged, settled
from srbench.sequence import measure_blocks
from srbench.store import RunWriter, read_run


@dataclass(frozen=True, slots=True, kw_only=True)
class Errand:
    """A run to be led on a cluster.

    Attributes:
        profile: Of the card.
        plan: What is measured in which order.
        prepare: Makes it ready on the machine that measures it.
        out: Results folder.
        argv: The command line.
        group: Shared by the runs of one command.
        begun: Its file, where it was begun already.
    """

    profile: Profile
    plan: Plan
    prepare: Prepare
    out: Path
    argv: list[str]
    group: str | None = None
    begun: Path | None = None


@dataclass(frozen=True, slots=True)
class Led:
    """How a run ended.

    Attributes:
        profile: Of its card.
        run: As stored; None where it never began.
        error: What broke it off, if anything did.
        path: Its file, where there is one.
    """

    profile: str
    run: Run | None
    error: SrbenchError | PipelineError | None = None
    path: Path | None = None


@dataclass(slots=True)
class _Pictures:
    """References of what the machines keep of the pictures of a run, and their hashes."""

    references: list[Any] = field(default_factory=list)
    hashes: dict[Place, frozenset[str]] = field(default_factory=dict)

    def keep(self, what: Kept, reference: Any) -> None:
        """Take one more, of a place that may have some; None where it was lost on its way."""
        if reference is None:
            return
        self.references.append(reference)
        self.hashes[what.place] = self.hashes.get(what.place, frozenset()) | what.hashes


class Leader:
    """Leads a run. `cancel` may be called from another thread, all else from one."""

    def __init__(self, ray: ModuleType, errand: Errand, conduct: Conduct) -> None:
        """Nothing is sent yet."""
        self._ray = ray
        self._errand = errand
        self._conduct = conduct
        self._nodes = Nodes(ray, errand.profile.name)
        self._cleanup = ExitStack()
        self._writer: RunWriter | None = None
        self._head: RunRecord | None = None
        self._pictures = _Pictures()
        self._stream: Stream | None = None
        self._cancelled = False

    def lead(self) -> Run | None:
        """Measure and judge what the run does not have yet.

        Returns:
            The run as stored; None where it was stopped before it began.

        Raises:
            NotComparableError: No machine is left that may measure it.
            InfrastructureError: Machines were lost, or a block was disturbed each time.
            UsageError, PipelineError: As at home.
        """
        errand = self._errand
        with measuring_into(errand.out / errand.profile.name), self._cleanup:
            finished = self._go_on(errand.begun) if errand.begun else set()
            try:
                blocks = measure_blocks(
                    errand.plan,
                    self._measure_block,
                    finished,
                    stop=self._conduct.stop,
                    decided=self._decided,
                )
                if self._writer is None:
                    return None
                return conclude(self._writer, errand.plan, blocks, self._judge)
            except StoppedError:
                if self._writer is None:
                    return None
                return conclude(self._writer, errand.plan, None, lambda: None)

    def led(self) -> Led:
        """Lead it; what breaks it off is told, not raised."""
        error: SrbenchError | PipelineError | None = None
        try:
            run = self.lead()
        except (SrbenchError, PipelineError) as broken:
            run, error = None, broken
        path = None if self._writer is None else self._writer.path
        if error is not None and path is not None:
            run = read_run(path)
        return Led(self._errand.profile.name, run, error, path)

    def cancel(self) -> None:
        """End the current task and its workers at once."""
        self._cancelled = True
        if self._stream is not None:
            self._stream.cancel()

    def _go_on(self, path: Path) -> set[int]:
        run = read_run(path)
        self._head = run.head
        self._conduct.looking.check(empty_run(run.head))
        self._writer = self._cleanup.enter_context(RunWriter.resume(path))
        return run.finished_blocks

    def _decided(self) -> bool:
        assert self._writer is not None
        return self._conduct.looking.decided(settled(read_run(self._writer.path)))

    def _measure_block(self, index: int) -> None:
        attempt = 1
        while attempt <= MAX_ATTEMPTS:
            node = self._node()
            order = BlockOrder(
                **self._common(), index=index, attempt=attempt, elsewhere=self._pictures.hashes
            )
            done = False
            try:
                for records in self._follow(tasks.measure_block, node, order):
                    attempt += sum(isinstance(record, VoidRecord) for record in records)
                    done = done or any(isinstance(record, BlockRecord) for record in records)
                return
            except RefusedError as error:
                self._refuse(node, error)
            except LostError as error:
                if error.node:
                    self._nodes.lost(node)
                if done:
                    # Its pictures are lost with it; they are painted again.
                    return
                self._void(index, attempt, f"{node.address}: {error}")
                attempt += 1
        raise InfrastructureError(
            f"block {index} was lost or disturbed {MAX_ATTEMPTS} times; --resume goes on"
        )

    def _judge(self) -> None:
        attempt = 1
        while attempt <= MAX_ATTEMPTS:
            node = self._node()
            assert self._writer is not None
            run = read_run(self._writer.path)
            order = JudgeOrder(
                **self._common(), cells=settled(run).cells, done=frozenset(judged(run))
            )
            try:
                for _records in self._follow(
                    tasks.judge_pictures, node, order, self._pictures.references
                ):
                    pass
                return
            except RefusedError as error:
                self._refuse(node, error)
            except LostError as error:
                self._note(f"judging its pictures: {node.address}: {error}")
                if error.node:
                    self._nodes.lost(node)
                attempt += 1
        raise InfrastructureError(
            f"the judging of its pictures was lost {MAX_ATTEMPTS} times; --resume goes on"
        )

    def _node(self) -> Node:
        node = self._nodes.choose(self._note, self._conduct.stop)
        if node is None:
            raise StoppedError
        return node

    def _common(self) -> dict[str, Any]:
        """The fields of every order."""
        order = Order(
            prepare=self._errand.prepare,
            argv=self._errand.argv,
            terms=self._conduct.looking.terms,
            folder=str(Path.cwd()),
            threads=os.environ.get("OMP_NUM_THREADS"),
            head=self._head,
        )
        return {each.name: getattr(order, each.name) for each in fields(Order)}

    def _refuse(self, node: Node, error: RefusedError) -> None:
        self._nodes.refused(node, str(error))
        self._note(f"{node.address} is not used: {error}")

    def _void(self, index: int, attempt: int, reason: str) -> None:
        if self._writer is not None:
            void = VoidRecord(block=index, attempt=attempt, finished_at=utc_now(), reasons=[reason])
            self._writer.append([void])
        self._note(f"block {index} does not count: {reason}")

    def _follow(self, task: Any, node: Node, order: Order, *more: Any) -> Iterator[list[Record]]:
        """Send a task out and keep what it sends; yields the records that were stored."""
        card = card_kind(self._errand.profile.name) is not None
        stream = self._stream = Stream(self._ray, task, node, card=card)
        try:
            if self._cancelled:
                raise StoppedError
            stream.send(order, *more, note=self._note, stop=self._conduct.stop)
            for item in stream.items(self._note):
                match item:
                    case Stored():
                        yield self._store(list(item.records))
                    case Note():
                        self._note(item.text)
                    case Kept():
                        self._pictures.keep(item, stream.passed_on())
        except BaseException:
            stream.cancel()
            raise

    def _store(self, records: list[Record]) -> list[Record]:
        """Write what a task sent; the first of all is the head."""
        if records and isinstance(records[0], RunRecord):
            self._begin(records.pop(0))  # type: ignore[arg-type]
        assert self._writer is not None
        if records:
            self._writer.append(records)
        for record in records:
            if isinstance(record, CellRecord):
                self._conduct.observer.cell_done(record)
        return records

    def _begin(self, sent: RunRecord) -> None:
        """Begin the file, under a name that this machine's clock gives it."""
        head = replace(
            sent,
            **start_of_run(self._errand.profile),
            executor="ray",
            group=self._errand.group,
        )
        self._conduct.looking.check(empty_run(head))
        self._head = head
        self._writer = self._cleanup.enter_context(RunWriter.create(self._errand.out, head))
        self._note(f"measuring {head.run_id}")

    def _note(self, text: str) -> None:
        self._conduct.observer.note(text)
