"""The wire between coordinator and worker: one JSON object a line, each a typed dataclass."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TypeVar

from srbench.errors import InfrastructureError

REQUESTS: dict[str, type[Message]] = {}
REPLIES: dict[str, type[Message]] = {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A line of the protocol; `type` on the wire is the class's name in lower case."""

    def encode(self) -> bytes:
        """The line, newline included."""
        return json.dumps({"type": type(self).__name__.lower(), **asdict(self)}).encode() + b"\n"


def decode(line: bytes, registry: dict[str, type[Message]]) -> Message:
    """Read a line as one of `registry`'s messages.

    Raises:
        InfrastructureError: It is none, so something else wrote into the channel.
    """
    try:
        content = json.loads(line)
        return registry[content.pop("type")](**content)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InfrastructureError(f"worker protocol: not understood: {line[:200]!r}") from error


M = TypeVar("M", bound=type[Message])


def request(message: M) -> M:
    """Register what a coordinator sends."""
    REQUESTS[message.__name__.lower()] = message
    return message


def reply(message: M) -> M:
    """Register what a worker answers."""
    REPLIES[message.__name__.lower()] = message
    return message


@request
@dataclass(frozen=True, slots=True, kw_only=True)
class Exit(Message):
    """Leave."""


@reply
@dataclass(frozen=True, slots=True, kw_only=True)
class Failed(Message):
    """The request raised.

    Attributes:
        outcome: Of `srbench.outcome.Outcome`.
        reason: One line.
    """

    outcome: str
    reason: str
