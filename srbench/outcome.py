"""Outcomes: how a cell can end, and which error means which."""

from __future__ import annotations

import signal
import traceback
from dataclasses import dataclass
from enum import StrEnum

from pipelines.contract import PipelineError
from srbench.errors import SrbenchError


class Outcome(StrEnum):
    """The values of a cell's `outcome`."""

    OK = "ok"
    OUT_OF_MEMORY = "oom"
    TIMEOUT = "timeout"
    CRASH = "crash"
    UNSUPPORTED = "unsupported"
    THROTTLED = "throttled"


INFRASTRUCTURE = frozenset({Outcome.OUT_OF_MEMORY, Outcome.TIMEOUT, Outcome.CRASH})
"""Outcomes that make `run` end in exit code 4."""

_NO_MEMORY = ("out of memory", "not enough memory", "can't allocate memory", "cannot allocate")


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a step gave no result.

    Attributes:
        outcome: Never `ok`.
        reason: One line.
    """

    outcome: Outcome
    reason: str


def one_line(text: str, limit: int = 300) -> str:
    """Whitespace folded, what a terminal would obey left out, and cut."""
    folded = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return folded if len(folded) <= limit else folded[: limit - 1] + "…"


def classify(error: BaseException) -> Failure:
    """The outcome that an exception inside a worker becomes.

    CUDA's own out-of-memory error is a RuntimeError whose text says so, as is the CPU allocator's,
    so torch is not needed to tell them.
    """
    text = one_line(str(error))
    if isinstance(error, MemoryError):
        return Failure(Outcome.OUT_OF_MEMORY, text or "not enough host memory")
    if isinstance(error, RuntimeError) and any(mark in text.lower() for mark in _NO_MEMORY):
        return Failure(Outcome.OUT_OF_MEMORY, text)
    if isinstance(error, PipelineError | SrbenchError):
        return Failure(Outcome.UNSUPPORTED, text)
    last = traceback.format_exception_only(error)[-1]
    return Failure(Outcome.CRASH, one_line(last))


def of_exit(returncode: int) -> Failure:
    """The outcome of a worker that ended by itself in the middle of a step."""
    if returncode >= 0:
        return Failure(Outcome.CRASH, f"the worker ended with exit code {returncode}")
    try:
        name = signal.Signals(-returncode).name
    except ValueError:
        name = f"signal {-returncode}"
    hint = ", as the kernel does when memory runs out" if -returncode == signal.SIGKILL else ""
    return Failure(Outcome.CRASH, f"the worker was killed by {name}{hint}")
