"""A task on a machine of a cluster, seen from its driver: what it sends, and how it may end."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

from pipelines.contract import PipelineError
from srbench.errors import InfrastructureError, SrbenchError
from srbench.executors.cluster import Node
from srbench.executors.messages import Order, RefusedError, Started
from srbench.fingerprint import code_digest
from srbench.outcome import one_line

_PATIENCE = 20
"""Seconds that Python takes to start on a machine; what takes longer waits for somebody else."""


class StoppedError(Exception):
    """The task was not begun, or ended, because somebody asked for it."""


class LostError(Exception):
    """The machine or the process of a task is gone, in one line.

    Attributes:
        node: Whether the machine is.
    """

    def __init__(self, text: str, *, node: bool) -> None:
        """With what is known of it."""
        super().__init__(text)
        self.node = node


class Stream:
    """One task, which has a card and all cores of its machine while it runs."""

    def __init__(
        self, ray: ModuleType, task: Callable[..., Any], node: Node, *, card: bool
    ) -> None:
        """A function of `srbench.executors.node`, for one machine; nothing is sent yet."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._ray = ray
        self._node = node
        self._function = ray.remote(task).options(
            num_cpus=node.cpus,
            num_gpus=1 if card else 0,
            num_returns="streaming",
            max_retries=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
        )
        self._stream: Any = None
        self._cancelled = False

    def send(
        self, order: Order, *more: Any, note: Callable[[str], None], stop: Callable[[], bool]
    ) -> None:
        """Have it run, and wait until it does.

        Args:
            order: What it is told.
            more: Further arguments.
            note: Told when its machine is busy.
            stop: Asked while it waits.

        Raises:
            StoppedError: It was stopped before it ran.
            LostError: Its machine is gone.
        """
        self._stream = self._function.remote(code_digest(), pickle.dumps(order), *more)
        waited = 0
        while not self._ray.wait([self._stream], timeout=1.0)[0]:
            waited += 1
            if stop():
                self.cancel()
                raise StoppedError
            if waited == _PATIENCE:
                note(f"waiting for {self._node.address}: somebody else has its cores or its card")
        assert isinstance(self._fetched(next(self._stream)), Started)

    def items(self, note: Callable[[str], None]) -> Iterator[Any]:
        """What it sends, as it comes.

        Args:
            note: Told the machine that something is wrong with, or the traceback of what should not
                have happened.

        Raises:
            LostError: Its machine or its process is gone.
            StoppedError: It was cancelled.
            SrbenchError, PipelineError: What the task raised.
        """
        while (reference := self.passed_on()) is not None:
            yield self._fetched(reference, note)

    def passed_on(self) -> Any:
        """The reference of the next thing that it sends, which stays where it is; None at its end.

        Waits in steps, so that a signal is heard.
        """
        while not self._ray.wait([self._stream], timeout=1.0)[0]:
            pass
        return next(self._stream, None)

    def cancel(self) -> None:
        """End it and its workers at once; from any thread."""
        self._cancelled = True
        if self._stream is not None:
            self._ray.cancel(self._stream, force=True)

    def _fetched(self, reference: Any, note: Callable[[str], None] = lambda _: None) -> Any:
        from ray.exceptions import (
            NodeDiedError,
            RayError,
            RayTaskError,
            TaskCancelledError,
            TaskUnschedulableError,
        )

        try:
            return self._ray.get(reference)
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, SrbenchError | PipelineError):
                if not isinstance(cause, RefusedError):
                    note(f"broken off on {self._node.address}")
                raise cause from None
            note(str(error))
            told = one_line(repr(cause))
            raise InfrastructureError(f"{self._node.address}: the task broke: {told}") from None
        except TaskCancelledError:
            raise StoppedError from None
        except RayError as error:
            if self._cancelled:
                raise StoppedError from None
            gone = isinstance(error, NodeDiedError | TaskUnschedulableError)
            what = "the machine was lost" if gone else "its process was lost"
            raise LostError(f"{what} ({type(error).__name__})", node=gone) from None
