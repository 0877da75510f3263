"""Pipelines by name, loaded only when used; their options from `key=value` texts."""

from __future__ import annotations

import dataclasses
import math
import sys
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from srbench.built_in import BUILT_IN, Entry
from srbench.commands import is_command
from srbench.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from pipelines.contract import Pipeline

ENTRY_POINT_GROUP = "srbench.pipelines"
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def pipeline_names() -> list[str]:
    """Names that need no `module:attribute`: built-in and installed ones."""
    return sorted({*BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))})


def find_pipeline(name: str) -> Entry:
    """Look a name up without importing anything of it.

    Raises:
        UsageError: It is neither a known name, nor `module:attribute`, nor `cmd:COMMAND`.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    if is_command(name):
        return Entry(name, name)
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        return Entry(name, point.value)
    module, _, attribute = name.partition(":")
    if module and attribute:
        return Entry(name, name)
    raise UsageError(f"pipeline '{name}': unknown.{did_you_mean(name, pipeline_names())}")


def is_foreign(name: str) -> bool:
    """Whether a pipeline is a program of its own, which has no class here.

    Raises:
        UsageError: No such pipeline.
    """
    return is_command(name) or find_pipeline(name).script is not None


def load_pipeline(name: str) -> type[Pipeline]:
    """Import a pipeline's class.

    Raises:
        UsageError: Unknown name, nothing of that name in the module, or a foreign engine.
    """
    if is_foreign(name):
        raise UsageError(
            f"pipeline '{name}': a program of its own, of which only times, memory and pictures "
            "are known: `srbench run` and `srbench aa` measure it"
        )
    found: type[Pipeline] = _load(find_pipeline(name).target, name)
    missing = [
        fact
        for fact in ("name", "version", "Options", "precisions", "tiers", "load", "upscale")
        if not hasattr(found, fact)
    ]
    if missing:
        raise UsageError(
            f"pipeline '{name}': no pipeline, it lacks {', '.join(missing)} "
            "(see pipelines/contract.py)"
        )
    return found


def version_of(pipeline: Pipeline) -> str:
    """Version of what a pipeline computes, with the identity of weights that it brings itself."""
    tell: Callable[[], str] = getattr(pipeline, "own_weights", lambda: "")
    digest = tell()
    return f"{pipeline.version} (weights {digest[:16]})" if digest else pipeline.version


def decisions_of(pipeline: Pipeline, height: int, width: int, scale: int) -> dict[str, str]:
    """What a pipeline chose for an LR size; nothing of a revision from before they told."""
    tell: Callable[..., dict[str, str]] = getattr(pipeline, "decisions", lambda *_: {})
    return tell(height, width, scale)


def output_size(pipeline: Pipeline, height: int, width: int, scale: int) -> tuple[int, int]:
    """Height and width of what a pipeline makes of an LR size: scaled, unless it tells another."""
    tell: Callable[..., tuple[int, int]] = getattr(
        pipeline, "output_size", lambda *_: (height * scale, width * scale)
    )
    return tell(height, width, scale)


def light_options(name: str) -> type | None:
    """The options class of a pipeline when it costs nothing to import, else None."""
    target = find_pipeline(name).options
    return None if target is None else _load(target, name)


def _load(target: str, name: str) -> Any:
    module_name, _, attribute = target.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        raise UsageError(f"pipeline '{name}': no module named '{error.name}'") from error
    try:
        return getattr(module, attribute)
    except AttributeError as error:
        known = [key for key in vars(module) if not key.startswith("_")]
        raise UsageError(
            f"pipeline '{name}': module {module_name} has no '{attribute}'."
            f"{did_you_mean(attribute, known)}"
        ) from error


def split_assignments(values: Iterable[str], arms: Sequence[str]) -> dict[str, dict[str, str]]:
    """Sort `key=value` and `ARM.key=value` texts by arm.

    A key without an arm goes to all of them under the arm name "", since only the arms know
    whether they have it.

    Raises:
        UsageError: A text without `=`.
    """
    sorted_values: dict[str, dict[str, str]] = {"": {}, **{arm: {} for arm in arms}}
    for text in values:
        key, equals, value = text.partition("=")
        # `module:attribute` arms hold dots themselves, so arms are matched first. An arm's own
        # name may even hold a `=`-free prefix of another's: the longest wins.
        owner = max((arm for arm in arms if key.startswith(f"{arm}.")), key=len, default="")
        key = key.removeprefix(f"{owner}.").strip() if owner else key.strip()
        if not equals or not key:
            raise UsageError(f"--set '{text}': expected key=value")
        sorted_values[owner][key] = value
    return sorted_values


def option_names(options: type) -> list[str]:
    """Names that `--set` takes for an options class."""
    return [field.name for field in dataclasses.fields(options)]


def assignments_for(
    arm: str, known: Sequence[str], values: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    """The assignments one arm takes: the shared ones that it has, then its own.

    Raises:
        UsageError: An assignment addressed to this arm names no option of it.
    """
    for key in values[arm]:
        if key not in known:
            raise UsageError(f"--set {arm}.{key}: no such option.{did_you_mean(key, list(known))}")
    shared = {key: value for key, value in values[""].items() if key in known}
    return {**shared, **values[arm]}


def check_shared(values: Mapping[str, Mapping[str, str]], known: Iterable[str]) -> None:
    """Refuse a shared assignment that no arm knows.

    Args:
        values: Of `split_assignments`.
        known: Option names of all arms together.

    Raises:
        UsageError: With a did-you-mean.
    """
    names = sorted(set(known))
    for key in values[""]:
        if key not in names:
            raise UsageError(
                f"--set {key}: no pipeline of this command has such an option."
                f"{did_you_mean(key, names)}"
            )


def parse_options(options: type, assignments: Mapping[str, str]) -> Any:
    """Build an options object from texts.

    Args:
        options: A frozen options dataclass, or a pipeline class that has one as `Options`.
        assignments: Option name -> raw text.

    Raises:
        UsageError: Unknown option, or a text that is no value of its type.
    """
    options = getattr(options, "Options", options)
    hints = get_type_hints(options)
    known = option_names(options)
    values = {}
    for key, text in assignments.items():
        if key not in known:
            raise UsageError(f"--set {key}: no such option.{did_you_mean(key, known)}")
        values[key] = _parse(key, text, hints[key])
    for field in dataclasses.fields(options):
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and field.name not in values:
            raise UsageError(f"--set {field.name}=…: is missing; the pipeline needs it")
    return options(**values)


def _parse(key: str, text: str, kind: Any) -> Any:
    """A text as a value of an option's declared type."""
    if get_origin(kind) is Literal:
        matching = [choice for choice in get_args(kind) if str(choice) == text]
        return matching[0] if matching else _refuse(key, text, _either(get_args(kind)))
    if get_origin(kind) in (Union, types.UnionType):
        if type(None) in get_args(kind) and text.lower() == "none":
            return None
        plain = next(part for part in get_args(kind) if part is not type(None))
        return _parse(key, text, plain)
    if kind is bool:
        if text.lower() in (*_TRUE, *_FALSE):
            return text.lower() in _TRUE
        return _refuse(key, text, "true or false")
    if isinstance(kind, type) and issubclass(kind, Enum):
        matching = [member for member in kind if str(member.value) == text]
        return matching[0] if matching else _refuse(key, text, _either([m.value for m in kind]))
    if kind in (int, float):
        try:
            number = kind(text)
        except ValueError:
            number = math.nan
        return (
            number
            if math.isfinite(number)
            else _refuse(key, text, "a whole number" if kind is int else "a number")
        )
    return text


def _either(choices: Iterable[Any]) -> str:
    return "one of " + ", ".join(str(choice) for choice in choices)


def _refuse(key: str, text: str, accepted: str) -> Any:
    raise UsageError(f"--set {key}={text}: expected {accepted}")
