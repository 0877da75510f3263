"""A Ray cluster and its machines; Ray is imported here alone, when somebody asks for it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

from srbench.errors import InfrastructureError, UsageError
from srbench.fingerprint import usable_cores
from srbench.outcome import one_line

LOCAL = "local"
"""The address of an instance that is started here and ends with the command."""

_PATIENCE_S = 5.0
_SILENCE_S = 20.0
"""A head that restarts is back earlier; Ray itself ends a process after 60 s without one."""
_ACCELERATOR = "accelerator_type:"


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the cluster that is alive.

    Attributes:
        id: Ray's identifier, hex.
        address: Its IP address, for messages.
        cpus: Cores that Ray may give away.
        gpus: Cards that Ray may give away.
        accelerators: Kinds of its cards as Ray names them: `A10`, `L20`, `H100`.
    """

    id: str
    address: str
    cpus: float
    gpus: float
    accelerators: tuple[str, ...]


class LostClusterError(InfrastructureError):
    """The head of the cluster is gone; what waits for it waits in vain."""


class Pulse:
    """Whether the head of a cluster still lives; asked now and then by whoever waits for it."""

    def __init__(self, ray: ModuleType, remedy: str = "--resume goes on") -> None:
        """Of the cluster that this process is connected to; `remedy` is told with its loss."""
        self._address = str(ray.get_runtime_context().gcs_address)
        self._remedy = remedy
        self._heard = self._asked = time.monotonic()

    def feel(self) -> None:
        """Ask it, every few seconds at most.

        Raises:
            LostClusterError: It has not answered for a while.
        """
        now = time.monotonic()
        if now - self._asked < _PATIENCE_S:
            return
        host, _, port = self._address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()
            self._heard = time.monotonic()
        except OSError as error:
            if time.monotonic() - self._heard > _SILENCE_S:
                raise LostClusterError(
                    f"the head of the cluster, {self._address}, answers no more ({error}); "
                    f"what is stored is stored, {self._remedy}"
                ) from error
        self._asked = time.monotonic()


@contextmanager
def connected(address: str | None) -> Iterator[ModuleType]:
    """Ray, connected to a cluster; on the way out this process leaves it.

    Args:
        address: `HOST:PORT` of its head, `auto` for the one of this machine, `local` to start one;
            None takes `RAY_ADDRESS`, else `local`.

    Raises:
        UsageError: Ray is not installed, nothing answers at the address, or the cluster runs
            another version of Ray or Python.
        InfrastructureError: Ray did not start here.
    """
    ray = _ray()
    place = address or os.environ.get("RAY_ADDRESS") or LOCAL
    _check_address(place)
    here: dict[str, object] = {}
    if place == LOCAL:
        here = {"num_cpus": usable_cores(), "include_dashboard": False}
        # What is measured at a low priority waits for everybody else.
        os.environ.setdefault("RAY_worker_niceness", "0")
    _silence(ray)
    try:
        with _without_stderr():
            ray.init(address=place, logging_level="ERROR", log_to_driver=False, **here)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise UsageError(f"--address {place}: {one_line(str(error), 300)}") from error
    except Exception as error:
        # A machine that is too slow to start Ray raises nothing better.
        raise InfrastructureError(f"--address {place}: {one_line(str(error), 300)}") from error
    try:
        yield ray
    except LostClusterError:
        # Leaving it in order would wait for it, in vain, until Ray ends the process.
        raise
    except BaseException:
        ray.shutdown()
        raise
    ray.shutdown()


def live_nodes(ray: ModuleType) -> list[Node]:
    """The machines of the cluster, in the order of their addresses."""
    found = [_node(each) for each in ray.nodes() if each["Alive"]]
    return sorted(found, key=lambda node: (node.address, node.id))


def _node(facts: dict[str, object]) -> Node:
    resources = facts["Resources"]
    assert isinstance(resources, dict)
    return Node(
        id=str(facts["NodeID"]),
        address=str(facts["NodeManagerAddress"]),
        cpus=float(resources.get("CPU", 0)),
        gpus=float(resources.get("GPU", 0)),
        accelerators=tuple(
            sorted(
                name.removeprefix(_ACCELERATOR)
                for name in resources
                if name.startswith(_ACCELERATOR)
            )
        ),
    )


def _ray() -> ModuleType:
    # It tells its makers of every cluster unless it is told not to.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Its core writes errors to stderr that are none of ours.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "--executor ray: Ray is not installed; pip install 'srbench[ray]'"
        ) from error
    module: ModuleType = ray
    return module


def _silence(ray: ModuleType) -> None:
    """Keep what Ray tells of dying machines off stdout, which is the result's.

    It has no setting for that. What matters of it reaches us as errors of our tasks.
    """
    worker = ray._private.worker
    if hasattr(worker, "print_to_stdstream"):
        worker.print_to_stdstream = lambda *_, **__: None


@contextmanager
def _without_stderr() -> Iterator[None]:
    """Ray's core tells there, from its first line on, that it was told to be silent."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _check_address(place: str) -> None:
    """Find out in seconds what Ray itself would find out in a minute."""
    if place in (LOCAL, "auto"):
        return
    if "://" in place:
        raise UsageError(
            f"--address {place}: clients of Ray cannot follow a run; give HOST:PORT of the head, "
            "or submit the command with `ray job submit`"
        )
    host, colon, port = place.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise UsageError(f"--address {place}: expected HOST:PORT, auto or local")
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE_S).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"--address {place}: no Ray cluster answers there ({error}); `ray start --head` starts "
            "one, and `--address local` needs none"
        ) from error
