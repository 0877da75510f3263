"""The child process: reads requests from stdin, answers on what was stdout.

`python -m srbench.worker`. Descriptor 1 is turned to stderr first, so that no library's print can
corrupt the protocol.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from queue import SimpleQueue
from typing import IO, NoReturn, Protocol

from srbench.outcome import Outcome, classify
from srbench.protocol import Described
from srbench.wire import REQUESTS, Exit, Failed, Message, decode


class Bench(Protocol):
    """What does the work; `srbench.workbench.Workbench` is one."""

    def handle(self, request: Message) -> Message:
        """Do one request; whatever it raises becomes an outcome."""

    def free_memory(self) -> None:
        """Give cached device memory back after a failure."""


def main() -> NoReturn:
    """Be a worker that measures pipelines."""
    serve(_workbench, _import_torch)


def serve(
    make_bench: Callable[[], Bench], meanwhile: Callable[[], None] = lambda: None
) -> NoReturn:
    """Answer requests until `Exit` or until the coordinator is gone.

    Args:
        make_bench: Called once nothing that it imports can write into the protocol.
        meanwhile: Done while the coordinator listens to the other arms describe themselves.
    """
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    # Before the thread: an import that fails must end the process with its error, not in the
    # interpreter's fight with a reader of stdin.
    bench = make_bench()
    lines: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, lines), daemon=True).start()
    while True:
        request = decode(lines.get(), REQUESTS)
        if isinstance(request, Exit):
            _leave()
        reply: Message
        try:
            reply = bench.handle(request)
        except Exception as error:  # noqa: BLE001  the boundary where errors become outcomes
            failure = classify(error)
            if failure.outcome is not Outcome.UNSUPPORTED:
                traceback.print_exc()
            reply = Failed(outcome=failure.outcome.value, reason=failure.reason)
            error.__traceback__ = None  # its frames would keep the image's tensors alive
            bench.free_memory()
        answers.write(reply.encode())
        if isinstance(reply, Described):
            meanwhile()


def _workbench() -> Bench:
    from srbench.workbench import Workbench

    return Workbench()


def _import_torch() -> None:
    """All arms import at the same time."""
    import torch  # noqa: F401


def _listen(requests: IO[bytes], lines: SimpleQueue[bytes]) -> None:
    """Pass requests on; when the coordinator is gone, leave even in the middle of an image."""
    for line in requests:
        lines.put(line)
    if os.getpgrp() == os.getpid():
        # Whatever the pipeline has started would go on computing on the card that is measured next.
        os.killpg(0, signal.SIGKILL)
    _leave()


def _leave() -> NoReturn:
    sys.stderr.flush()
    # Interpreter teardown with torch loaded costs a second and may hang in a driver.
    os._exit(0)


if __name__ == "__main__":
    main()
