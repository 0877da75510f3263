"""A worker seen from the coordinator: start, ask with a time limit, kill."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import cache_from_source, find_spec
from pathlib import Path
from typing import TypeVar

import srbench
from pipelines.cache import cache_folder
from srbench.errors import InfrastructureError
from srbench.outcome import INFRASTRUCTURE, Failure, Outcome, of_exit, one_line
from srbench.wire import REPLIES, Exit, Failed, Message, RubbishError, decode

_CHUNK = 1 << 16
_PATIENCE_S = 5.0
_LOOK_S = 1.0
_TAIL_LINES = 20
_TAIL_WIDTH = 500
_TAIL_BYTES = 1 << 16

LONGEST_LINE = 16 << 20
"""Bytes of an answer: the longest ones, of judged pictures with their crops, have two million."""

_FAILURES = {*INFRASTRUCTURE, Outcome.UNSUPPORTED}
"""What a worker can say of itself; throttling is seen from outside."""

R = TypeVar("R", bound=Message)


@dataclass(frozen=True, slots=True)
class Launch:
    """How a worker is started.

    Attributes:
        command: Program and arguments of something that speaks the worker protocol.
        python_path: Folders that its modules are looked for in first; by default where this
            srbench lies. None at all for a foreign engine, whose modules are its own affair.
        environment: Variables set on top of the coordinator's.
    """

    command: tuple[str, ...] = (sys.executable, "-m", "srbench.worker")
    python_path: tuple[str, ...] = (str(Path(srbench.__file__).resolve().parents[1]),)
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def foreign(self) -> bool:
        """Whether something else than this srbench answers."""
        return not self.python_path


class WorkerProcess:
    """One child. After a time-out or its death it is gone; `alive` tells."""

    def __init__(self, log: Path, launch: Launch | None = None) -> None:
        """Start a worker; its stderr goes to the file `log`.

        Raises:
            InfrastructureError: Its program cannot be started.
        """
        self._log = log
        launch = launch or Launch()
        with log.open("ab") as stderr:
            # A session of its own: the terminal's Ctrl-C reaches the coordinator alone, and a kill
            # reaches everything that the worker started.
            try:
                self._process = subprocess.Popen(
                    launch.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=stderr,
                    start_new_session=True,
                    env=_environment(launch),
                )
            except OSError as error:
                raise InfrastructureError(
                    f"{launch.command[0]}: cannot be started ({error.strerror})"
                ) from error
        self._buffer = bytearray()
        self._unasked: bytes = b""

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
        self._unasked = self._unasked or self._waiting()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(request.encode())
            self._process.stdin.flush()

    def _waiting(self) -> bytes:
        """The beginning of what it has written before it is asked."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            return os.read(self._process.stdout.fileno(), _CHUNK) if selector.select(0) else b""

    def receive(self, kind: type[R], timeout_s: float) -> R | Failure:
        """Read one answer of that kind.

        Returns:
            The answer; or a failure, after which the worker has been killed unless it answered
            with the failure itself.
        """
        if self._unasked:
            return self.distrust(f"{self._unasked[:80]!r} before it was asked")
        line = self._read_line(timeout_s)
        if isinstance(line, Failure):
            return line
        try:
            reply = decode(line, REPLIES)
        except RubbishError as error:
            return self.distrust(str(error))
        if self._buffer:
            return self.distrust(f"{bytes(self._buffer[:80])!r} after its answer")
        if isinstance(reply, Failed):
            return self._failure(reply)
        if not isinstance(reply, kind):
            answered, wanted = (name.__name__.lower() for name in (type(reply), kind))
            return self.distrust(f"'{answered}' where '{wanted}' belongs")
        return reply

    def _failure(self, reply: Failed) -> Failure:
        if reply.outcome not in _FAILURES:
            return self.distrust(f"'failed': no such outcome: '{one_line(reply.outcome, 40)}'")
        return Failure(Outcome(reply.outcome), one_line(reply.reason) or "it gave no reason")

    def distrust(self, what: str) -> Failure:
        """Kill a worker that answered something that cannot be; returns its failure."""
        self.kill()
        return Failure(Outcome.CRASH, one_line(f"answered rubbish: {what}"))

    def ask(self, kind: type[R], request: Message, timeout_s: float) -> R | Failure:
        """Send and receive."""
        self.send(request)
        return self.receive(kind, timeout_s)

    def _read_line(self, timeout_s: float) -> bytes | Failure:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        searched = 0
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while (end := self._buffer.find(b"\n", searched)) < 0:
                searched = len(self._buffer)
                if searched > LONGEST_LINE:
                    return self.distrust(f"a line of more than {LONGEST_LINE >> 20} MiB")
                left = deadline - time.monotonic()
                if left <= 0:
                    self.kill()
                    return Failure(Outcome.TIMEOUT, f"no answer within {timeout_s:g} s")
                if not selector.select(min(left, _LOOK_S)):
                    # Its output may outlive it, in the hands of a process that it started.
                    if self.alive or selector.select(0):
                        continue
                    return self._death()
                chunk = os.read(descriptor, _CHUNK)
                if not chunk:
                    return self._death()
                self._buffer += chunk
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _death(self) -> Failure:
        self._await_end()
        if self.alive:
            return self.distrust("nothing any more, its standard output is closed")
        self.kill()
        return of_exit(self._process.returncode)

    def log_tail(self) -> str:
        """The last lines the worker wrote to stderr."""
        with self._log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]
        # What a terminal would obey is left out, and no line fills it.
        lines = ["".join(c if c.isprintable() else " " for c in line) for line in lines]
        return "\n".join(line[:_TAIL_WIDTH] for line in lines).rstrip()

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
    environment = {
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        **os.environ,
        **launch.environment,
        "PYTHONUNBUFFERED": "1",
    }
    if launch.foreign:
        # They name modules of this interpreter, and the engine may run in another.
        for ours in ("PYTHONPATH", "PYTHONHOME"):
            environment.pop(ours, None)
    else:
        paths = [*launch.python_path, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment["PYTHONPATH"] = os.pathsep.join(paths)
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
