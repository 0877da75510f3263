"""Strict tables: what a TOML file says becomes frozen settings, or one line names the wrong key."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from pipelines.contract import PipelineError

T = TypeVar("T")
Table = dict[str, Any]
_NAMES = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def read_toml(path: Path) -> Table:
    """The table of a file.

    Raises:
        PipelineError: Missing, not readable, or no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PipelineError(f"{path}: no such recipe") from error
    except OSError as error:
        raise PipelineError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise PipelineError(f"{path}: not TOML ({error})") from error


def parse_assignments(assignments: Sequence[str]) -> Table:
    """`section.key=value` after one another, as a table; values as TOML spells them, or plain text.

    Raises:
        PipelineError: No `=`, or no section.
    """
    table: Table = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        *sections, key = path.strip().split(".")
        if not equals or not sections or not all([*sections, key]):
            raise PipelineError(f"--set {assignment}: expected section.key=value")
        place = table
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise PipelineError(f"--set {assignment}: {section} has been given a value before")
        place[key] = _value_of(text.strip())
    return table


def merged(base: Table, changes: Table) -> Table:
    """`base` with the values of `changes`, table by table."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        both = isinstance(old, dict) and isinstance(value, dict)
        result[key] = merged(old, value) if both else value  # type: ignore[arg-type]
    return result


def build(kind: type[T], table: object, where: str = "") -> T:
    """A frozen dataclass from a table; keys that are not given have their defaults.

    A field whose class has a `from_table` of its own is built by that.

    Args:
        kind: The dataclass.
        table: Key -> value; tables for fields that are dataclasses.
        where: Path of the table, for messages.

    Raises:
        PipelineError: An unknown key, a missing one, a value of another type, or one that the class
            refuses; names the key.
    """
    if not isinstance(table, dict):
        raise PipelineError(f"{where}: expected a table, found {table!r}")
    hints = get_type_hints(kind)
    dots = f"{where}." if where else ""
    for key in table:
        if key not in hints:
            raise PipelineError(f"{dots}{key}: unknown{_did_you_mean(key, list(hints))}")
    values = {}
    for field in fields(kind):  # type: ignore[arg-type]
        hint = hints[field.name]
        if field.name in table:
            values[field.name] = _converted(hint, table[field.name], f"{dots}{field.name}")
        elif is_dataclass(hint):
            values[field.name] = _converted(hint, {}, f"{dots}{field.name}")
        elif field.default is MISSING:
            raise PipelineError(f"{dots}{field.name}: missing")
    return _made(lambda: kind(**values), where)


def _made(make: Callable[[], T], where: str) -> T:
    try:
        return make()
    except PipelineError as error:
        named = not where or str(error).startswith(f"{where}.")
        raise PipelineError(str(error) if named else f"[{where}] {error}") from error


def _converted(hint: Any, value: object, where: str) -> Any:
    own = getattr(hint, "from_table", None)
    if own is not None:
        if not isinstance(value, dict):
            raise PipelineError(f"{where}: expected a table, found {value!r}")
        return _made(lambda: own(value), where)
    if is_dataclass(hint):
        return build(hint, value, where)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        if not isinstance(value, list):
            raise PipelineError(f"{where}: expected a list, found {value!r}")
        return tuple(_converted(inner, item, where) for item in value)
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        if value not in list(hint):
            raise PipelineError(f"{where}: expected one of {', '.join(hint)}, found {value!r}")
        return hint(str(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise PipelineError(f"{where}: expected {_NAMES[hint]}, found {value!r}")
    return value


def _value_of(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"
