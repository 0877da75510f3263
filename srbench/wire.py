"""The wire between coordinator and worker: one JSON object a line, each a typed dataclass."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, TypeVar

from srbench.errors import InfrastructureError, did_you_mean
from srbench.shape import misfit

REQUESTS: dict[str, type[Message]] = {}
REPLIES: dict[str, type[Message]] = {}
_LARGEST_BITS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A line of the protocol; `type` on the wire is the class's name in lower case."""

    def encode(self) -> bytes:
        """The line, newline included."""
        return json.dumps({"type": type(self).__name__.lower(), **asdict(self)}).encode() + b"\n"


class RubbishError(InfrastructureError):
    """A line that is none of the protocol; the message says what is wrong with it."""


def decode(line: bytes, registry: dict[str, type[Message]]) -> Message:
    """Read a line as one of `registry`'s messages, every field of the type that it declares.

    Raises:
        RubbishError: It is none, so something else wrote into the channel or its writer is wrong.
    """
    try:
        content = json.loads(line, parse_int=_integer)
        # Neither a record nor a terminal could take a NaN or half a character.
        json.dumps(content, allow_nan=False, ensure_ascii=False).encode()
    except OverflowError as error:
        raise RubbishError(f"{line[:80]!r} holds {error}") from error
    except (ValueError, RecursionError) as error:
        raise RubbishError(f"{line[:80]!r} is no line of JSON") from error
    kind = content.pop("type", None) if isinstance(content, dict) else None
    message = registry.get(kind) if isinstance(kind, str) else None
    if message is None:
        raise RubbishError(f"{line[:80]!r} is no answer of the protocol")
    for wrong in _wrong_fields(message, content):
        raise RubbishError(f"'{kind}': {wrong}")
    return message(**content)


def _integer(digits: str) -> int:
    """Python's have no end, but no float and no table could take them."""
    number = int(digits)
    if number.bit_length() > _LARGEST_BITS:
        raise OverflowError(f"a whole number of more than {_LARGEST_BITS} bits")
    return number


def _wrong_fields(message: type[Message], content: dict[str, Any]) -> Iterator[str]:
    """What is wrong with the fields of a message, in words."""
    known = {field.name: field for field in fields(message)}
    for name in content:
        if name not in known:
            yield f"there is no field '{name[:40]}'.{did_you_mean(name, list(known))}"
    for name, field in known.items():
        needed = field.default is MISSING and field.default_factory is MISSING
        if needed and name not in content:
            yield f"{name} is missing"
    if wrong := misfit(message, content):
        yield wrong


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
        outcome: Of `srbench.outcome.Outcome`, never `ok`.
        reason: One line.
    """

    outcome: str
    reason: str
