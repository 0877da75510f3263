"""Strict tables: what a TOML file says becomes frozen settings, or one line names the wrong key."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from enum import StrEnum
from pathlib import Path
from types import NoneType, UnionType
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


def overridden(defaults: T, table: object, where: str = "") -> T:
    """A frozen dataclass with the values of a table, of the types that its fields are declared as.

    Args:
        defaults: Values of what the table does not name.
        table: Key -> value; tables for fields that are dataclasses, lists for tuples.
        where: Path of the table, for messages.

    Raises:
        PipelineError: An unknown key, a value of another type, or one that the class refuses; names
            the key.
    """
    if not isinstance(table, dict):
        raise PipelineError(f"{where}: expected a table, found {table!r}")
    hints = get_type_hints(type(defaults))
    known = [field.name for field in fields(defaults)]  # type: ignore[arg-type]
    dots = f"{where}." if where else ""
    changes = {}
    for key, value in table.items():
        if key not in known:
            raise PipelineError(f"{dots}{key}: unknown{_did_you_mean(key, known)}")
        old = getattr(defaults, key)
        if is_dataclass(old):
            changes[key] = overridden(old, value, f"{dots}{key}")
        else:
            changes[key] = _converted(hints[key], value, f"{dots}{key}")
    try:
        return replace(defaults, **changes)  # type: ignore[type-var]
    except PipelineError as error:
        raise PipelineError(f"[{where}] {error}" if where else str(error)) from error


def _converted(hint: Any, value: object, where: str) -> Any:
    if get_origin(hint) is UnionType:  # `X | None`: TOML has no null, leaving the key out is it
        [hint] = [part for part in get_args(hint) if part is not NoneType]
    if get_origin(hint) is tuple:
        return _tuple(get_args(hint), value, where)
    if hint is Path and isinstance(value, str):
        return Path(value).expanduser()
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        if value not in list(hint):
            raise PipelineError(f"{where}: expected one of {', '.join(hint)}, found {value!r}")
        return hint(str(value))
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        name = "the path of a file" if hint is Path else _NAMES[hint]
        raise PipelineError(f"{where}: expected {name}, found {value!r}")
    return value


def _tuple(hints: tuple[Any, ...], value: object, where: str) -> tuple[Any, ...]:
    """`tuple[int, ...]` takes a list of any length, `tuple[int, int]` one of two."""
    if not isinstance(value, list):
        raise PipelineError(f"{where}: expected a list, found {value!r}")
    if hints[-1] is Ellipsis:
        hints = hints[:1] * len(value)
    if len(value) != len(hints):
        raise PipelineError(f"{where}: expected {len(hints)} values, found {value!r}")
    return tuple(_converted(h, item, where) for h, item in zip(hints, value, strict=True))


def _value_of(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else f"; known are {', '.join(known)}"
