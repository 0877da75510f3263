"""Whether values out of a file are of the types that a dataclass declares."""

from __future__ import annotations

import types
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints

Fits = Callable[[Any], bool]


def misfit(cls: type, values: dict[str, Any]) -> str | None:
    """The first of the values that is not of its field's type, in words; None when all are.

    Args:
        cls: A dataclass.
        values: By field; fields may be missing.
    """
    fits = _fields(cls)
    for name, value in values.items():
        if not fits[name](value):
            return f"{name} is {_name(value)}"
    return None


@cache
def _fields(cls: type) -> dict[str, Fits]:
    hints = get_type_hints(cls)
    return {field.name: _fits(hints[field.name]) for field in fields(cls)}


def _fits(wanted: Any) -> Fits:
    """A test for a type, taken apart once and not for each of a million values."""
    origin, inner = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return lambda value: True
    if origin in (Union, types.UnionType):
        options = tuple(map(_fits, inner))
        return lambda value: any(fits(value) for fits in options)
    if origin is Sequence:
        # Its items are for its maker to check: they need not all be in memory at once.
        return lambda value: isinstance(value, Sequence) and not isinstance(value, str)
    if origin is list:
        item = _fits(inner[0])
        return lambda value: isinstance(value, list) and all(map(item, value))
    if origin is dict:
        key, item = map(_fits, inner)
        return lambda value: (
            isinstance(value, dict) and all(map(key, value)) and all(map(item, value.values()))
        )
    return _fits_plainly(wanted)


def _fits_plainly(wanted: type) -> Fits:
    """Whole numbers are numbers too; truth values are none."""
    kinds: Any = (int, float) if wanted is float else wanted
    if wanted is bool:
        return lambda value: isinstance(value, bool)
    return lambda value: isinstance(value, kinds) and not isinstance(value, bool)


def _name(value: Any) -> str:
    """A value as a person would find it in the file."""
    if value is None:
        return "null"
    if isinstance(value, dict | list):
        return "an object that does not belong there" if isinstance(value, dict) else "a wrong list"
    return repr(value)[:40]
