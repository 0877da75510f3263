"""A worker seen from the coordinator: start, ask with a time limit, kill."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import cache_from_source, find_spec
from pathlib import Path

import srbench
from pipelines.cache import cache_folder
from srbench.errors import InfrastructureError
from srbench.outcome import Failure, Outcome, of_exit
from srbench.wire import REPLIES, Exit, Failed, Message, decode

_CHUNK = 1 << 16
_PATIENCE_S = 5.0
_TAIL_LINES = 20


@dataclass(frozen=True, slots=True)
class Launch:
    """How a worker is started.

    Attributes:
        command: Program and arguments of something that speaks the worker protocol.
        python_path: Folders that its modules are looked for in first; by default where this
            srbench lies.
        environment: Variables set on top of the coordinator's.
    """

    command: tuple[str, ...] = (sys.executable, "-m", "srbench.worker")
    python_path: tuple[str, ...] = (str(Path(srbench.__file__).resolve().parents[1]),)
    environment: Mapping[str, str] = field(default_factory=dict)


class WorkerProcess:
    """One child. After a time-out or its death it is gone; `alive` tells."""

    def __init__(self, log: Path, launch: Launch | None = None) -> None:
        """Start a worker; its stderr goes to the file `log`."""
        self._log = log
        launch = launch or Launch()
        with log.open("ab") as stderr:
            # A session of its own: the terminal's Ctrl-C reaches the coordinator alone, and a kill
            # reaches everything that the worker started.
            self._process = subprocess.Popen(
                launch.command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                start_new_session=True,
                env=_environment(launch),
            )
        self._buffer = b""

    @property
    def alive(self) -> bool:
        """Whether it can be asked something."""
        if self._process.returncode is not None:
            return False
        # Not reaped here: as long as it is a zombie its group's number cannot be another's.
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is None

    @property
    def pid(self) -> int:
        """Process id, also of its process group."""
        return self._process.pid

    def send(self, request: Message) -> None:
        """Write a request; a worker that is gone is noticed when the answer is read."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(request.encode())
            self._process.stdin.flush()

    def receive(self, timeout_s: float) -> Message | Failure:
        """Read one answer.

        Returns:
            The answer; or a failure, after which the worker has been killed unless it answered
            with the failure itself.

        Raises:
            InfrastructureError: The answer is not of the protocol.
        """
        line = self._read_line(timeout_s)
        if isinstance(line, Failure):
            return line
        reply = decode(line, REPLIES)
        if not isinstance(reply, Failed):
            return reply
        if reply.outcome not in set(Outcome):
            raise InfrastructureError(f"worker protocol: no such outcome: {reply.outcome!r}")
        return Failure(Outcome(reply.outcome), reply.reason)

    def ask(self, request: Message, timeout_s: float) -> Message | Failure:
        """Send and receive."""
        self.send(request)
        return self.receive(timeout_s)

    def _read_line(self, timeout_s: float) -> bytes | Failure:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = deadline - time.monotonic()
                if left <= 0 or not selector.select(left):
                    if time.monotonic() < deadline:
                        continue
                    self.kill()
                    return Failure(Outcome.TIMEOUT, f"no answer within {timeout_s:g} s")
                chunk = os.read(descriptor, _CHUNK)
                if not chunk:
                    return self._death()
                self._buffer += chunk
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _death(self) -> Failure:
        self._await_end()
        self.kill()
        return of_exit(self._process.returncode)

    def log_tail(self) -> str:
        """The last lines the worker wrote to stderr."""
        with self._log.open(encoding="utf-8", errors="replace") as file:
            return "".join(deque(file, maxlen=_TAIL_LINES)).rstrip()

    def stop(self) -> None:
        """Ask it to leave, and kill it when it does not."""
        if self.alive:
            self.send(Exit())
            self._await_end()
        self.kill()

    def kill(self) -> None:
        """Kill it and everything it started."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _await_end(self) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while self.alive and time.monotonic() < deadline:
            time.sleep(0.01)


def _environment(launch: Launch) -> dict[str, str]:
    """The parent's, made to find the right srbench and to number cards as the driver does."""
    paths = [*launch.python_path, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        **os.environ,
        **launch.environment,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
    }
    if sys.dont_write_bytecode and not _is_compiled("torch"):
        # Every block starts fresh workers: compiling torch's and diffusers' sources anew each time
        # would triple their start. The cache keeps the installation itself untouched.
        environment.pop("PYTHONDONTWRITEBYTECODE", None)
        environment.setdefault("PYTHONPYCACHEPREFIX", str(cache_folder() / "bytecode"))
    return environment


def _is_compiled(package: str) -> bool:
    """Whether an installed package has its bytecode beside it, as installers leave it."""
    found = find_spec(package)
    return found is not None and Path(cache_from_source(str(found.origin))).is_file()
