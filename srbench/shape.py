"""Whether values out of a file are of the types that a dataclass declares."""

from __future__ import annotations

import types
from dataclasses import fields
from functools import cache
from typing import Any, Union, get_args, get_origin, get_type_hints


def misfit(cls: type, values: dict[str, Any]) -> str | None:
    """The first of the values that is not of its field's type, in words; None when all are.

    Args:
        cls: A dataclass.
        values: By field; fields may be missing.
    """
    hints = _hints(cls)
    for name, value in values.items():
        if not _fits(value, hints[name]):
            return f"{name} is {_name(value)}"
    return None


@cache
def _hints(cls: type) -> dict[str, Any]:
    hints = get_type_hints(cls)
    return {field.name: hints[field.name] for field in fields(cls)}


def _fits(value: Any, wanted: Any) -> bool:
    origin, inner = get_origin(wanted), get_args(wanted)
    if wanted is Any:
        return True
    if origin in (Union, types.UnionType):
        return any(_fits(value, option) for option in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(item, inner[0]) for item in value)
    if origin is dict:
        return isinstance(value, dict) and all(
            _fits(key, inner[0]) and _fits(item, inner[1]) for key, item in value.items()
        )
    if isinstance(value, bool):
        return wanted is bool
    return isinstance(value, (int, float) if wanted is float else wanted)


def _name(value: Any) -> str:
    """A value as a person would find it in the file."""
    if value is None:
        return "null"
    if isinstance(value, dict | list):
        return "an object that does not belong there" if isinstance(value, dict) else "a wrong list"
    return repr(value)[:40]
