"""The child process: reads requests from stdin, answers on what was stdout.

`python -m srbench.worker`. Descriptor 1 is turned to stderr first, so that no library's print can
corrupt the protocol.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from queue import SimpleQueue
from typing import IO, NoReturn

from srbench.outcome import Outcome, classify
from srbench.protocol import REQUESTS, Described, Exit, Failed, Message, decode


def main() -> NoReturn:
    """Serve until `Exit` or until the coordinator is gone."""
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)
    lines: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(sys.stdin.buffer, lines), daemon=True).start()
    from srbench.workbench import Workbench

    bench = Workbench()
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
            # While the coordinator listens to the other arms; they all import at the same time.
            import torch  # noqa: F401


def _listen(requests: IO[bytes], lines: SimpleQueue[bytes]) -> None:
    """Pass requests on; when the coordinator is gone, leave even in the middle of an image."""
    for line in requests:
        lines.put(line)
    _leave()


def _leave() -> NoReturn:
    sys.stderr.flush()
    # Interpreter teardown with torch loaded costs a second and may hang in a driver.
    os._exit(0)


if __name__ == "__main__":
    main()
