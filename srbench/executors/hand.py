"""An actor of a data set: it opens its craft once, and does one work after another."""

from __future__ import annotations

import logging
import os
import pickle
import socket
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

from pipelines.contract import PipelineError
from srbench.errors import InfrastructureError, NotComparableError, SrbenchError, UsageError
from srbench.executors.ledger import MAX_ATTEMPTS, Word
from srbench.fingerprint import code_digest
from srbench.outcome import one_line

COLUMN = "item"
"""Of the tables that go in and out: pickles."""

GIVEN_UP = (
    f"the process that works on it died {MAX_ATTEMPTS} times; not enough memory, or a crash in it"
)

Do = Callable[[Any], Iterator[Any]]
"""Does a work; what it yields is sent to the driver. Its errors end the whole batch."""


class Craft(Protocol):
    """What an actor can do; sent to it without its networks."""

    def open(self, note: Callable[[str], None]) -> Do:
        """Get ready; called in the actor before its first work. `note` is told to the user."""


class End(Enum):
    """Why there are no more replies to a work."""

    DONE = "done"
    NOT_BEGUN = "not begun"
    GIVEN_UP = "given up"


@dataclass(frozen=True, slots=True)
class Broken:
    """The whole batch cannot go on.

    Attributes:
        kind: Name of one of `ERRORS`.
        text: What is wrong, in one line.
        trace: Of an error that is nobody's fault but ours.
    """

    kind: str
    text: str
    trace: str = ""

    def error(self) -> Exception:
        """The same as it was raised."""
        return ERRORS[self.kind](self.text)


ERRORS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (UsageError, InfrastructureError, NotComparableError, PipelineError)
}


@dataclass(frozen=True, slots=True)
class Sent:
    """What an actor sends.

    Attributes:
        work: Its number.
        reply: Of the craft, an `End` or `Broken`.
        notes: Lines for the user.
        warnings: Lines of the log.
    """

    work: int
    reply: Any
    notes: tuple[str, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Terms:
    """What every actor of a batch is told.

    Attributes:
        craft: What it does.
        folder: Where the command was typed: options may name files from there.
        code: Digest of the driver's sources.
    """

    craft: Craft
    folder: Path
    code: str


class Hand:
    """A callable class as Ray Data wants it; to make one costs nothing."""

    def __init__(self, terms: Terms, ledger: Any) -> None:
        """Arrive; the craft is opened by the first work."""
        import ray

        self._ray = ray
        self._terms = terms
        self._ledger = ledger
        self._do: Do | None = None
        self._notes: list[str] = []
        self._warnings: list[str] = []
        context = ray.get_runtime_context()
        arrival = (context.get_actor_id(), context.get_node_id(), context.current_actor)
        ray.get(ledger.arrive.remote(*arrival))

    def __call__(self, table: Any) -> Iterator[Any]:
        """Do the works of a pyarrow table; each reply is a table of its own."""
        import pyarrow as pa  # type: ignore[import-untyped]

        for item in table[COLUMN].to_pylist():
            number, work = pickle.loads(item)
            for reply in self._replies(number, work):
                sent = Sent(number, reply, tuple(self._notes), tuple(self._warnings))
                self._notes.clear()
                self._warnings.clear()
                content = pickle.dumps(sent, protocol=pickle.HIGHEST_PROTOCOL)
                yield pa.table({COLUMN: pa.array([content], pa.large_binary())})

    def _replies(self, number: int, work: Any) -> Iterator[Any]:
        match self._ray.get(self._ledger.begin.remote(number)):
            case Word.STOP:
                yield End.NOT_BEGUN
                return
            case Word.GIVE_UP:
                yield End.GIVEN_UP
                return
        try:
            if self._do is None:
                self._do = self._open()
            with closing(self._do(work)) as replies:  # type: ignore[type-var]
                for reply in replies:
                    yield reply
                    if self._ray.get(self._ledger.stopped.remote()):
                        break
        except (SrbenchError, PipelineError) as error:
            yield Broken(_kind(error), f"{error}")
        except Exception as error:  # noqa: BLE001  the boundary: a bug here is told there
            what = one_line(f"{type(error).__name__}: {error}")
            text = f"internal error on {socket.gethostname()}: {what}; please report it"
            yield Broken(InfrastructureError.__name__, text, traceback.format_exc())
        else:
            yield End.DONE

    def _open(self) -> Do:
        if code_digest() != self._terms.code:
            raise NotComparableError(
                f"{socket.gethostname()}: srbench there is of other sources "
                f"({code_digest()[:12]}) than here ({self._terms.code[:12]}); install the same"
            )
        if self._terms.folder.is_dir():
            os.chdir(self._terms.folder)
        logging.getLogger().addHandler(_Heard(self._warnings))
        return self._terms.craft.open(self._notes.append)


class _Heard(logging.Handler):
    """Keeps warnings of srbench and the pipelines."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        if record.name.split(".")[0] in ("srbench", "pipelines"):
            self._lines.append(record.getMessage())


def _kind(error: Exception) -> str:
    found = (name for name, kind in ERRORS.items() if isinstance(error, kind))
    return next(found, UsageError.__name__)
