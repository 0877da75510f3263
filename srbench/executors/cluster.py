"""A Ray cluster and its machines; Ray is imported here alone, when somebody asks for it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType

from srbench.errors import UsageError
from srbench.fingerprint import usable_cores
from srbench.outcome import one_line

LOCAL = "local"
"""The address of an instance that is started here and ends with the command."""

_PATIENCE_S = 5.0
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


@contextmanager
def connected(address: str | None) -> Iterator[ModuleType]:
    """Ray, connected to a cluster; on the way out this process leaves it.

    Args:
        address: `HOST:PORT` of its head, `auto` for the one of this machine, `local` to start one;
            None takes `RAY_ADDRESS`, else `local`.

    Raises:
        UsageError: Ray is not installed, nothing answers at the address, or the cluster runs
            another version of Ray or Python.
    """
    ray = _ray()
    place = address or os.environ.get("RAY_ADDRESS") or LOCAL
    _check_address(place)
    here = {"num_cpus": usable_cores(), "include_dashboard": False} if place == LOCAL else {}
    try:
        ray.init(address=place, logging_level="ERROR", log_to_driver=False, **here)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise UsageError(f"--address {place}: {one_line(str(error), 300)}") from error
    try:
        yield ray
    finally:
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
    try:
        import ray
    except ImportError as error:
        raise UsageError(
            "--executor ray: Ray is not installed; pip install 'srbench[ray]'"
        ) from error
    module: ModuleType = ray
    return module


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
