"""Settings of a command: command line, then environment, then configuration file, then default."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from srbench.commands import split_arms
from srbench.errors import UsageError, did_you_mean

ENVIRONMENT_PREFIX = "SRBENCH_"
OTHER_VARIABLES = ("SRBENCH_CACHE",)
"""Variables with our prefix that are read elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the commands that measure can be told; None means "decided by the device".

    Attributes:
        gpu: `auto`, `cpu` or a profile's name; on a cluster several with commas between them.
        cases: Case names and matrices.
        pipelines: Arm names; the first is the baseline.
        weights: Folder, `mini` or `synthetic`.
        inputs: Folder of the user's own images.
        precision: `fp32` or `fp16`.
        blocks: Fresh process pairs.
        pairs: Timed pairs per case in a block.
        seed: Of the block plan.
        noise_seed: Of the posterior noise.
        options: `key=value` and `PIPELINE.key=value` assignments.
        out: Results folder.
        pairing: `interleaved` or `block`, see `srbench.records.RunRecord`.
        timeout: Seconds one step of a worker may take.
        executor: `local`, or `ray` for the machines of a cluster.
        address: Of the cluster; None for the one that Ray finds, else one of this machine's.
        gate: The raw `[gate]` table, checked by the gate.
    """

    gpu: str = "auto"
    cases: tuple[str, ...] | None = None
    pipelines: tuple[str, ...] = ("s3diff-baseline", "s3diff-optimized")
    weights: str | None = None
    inputs: Path | None = None
    precision: str | None = None
    blocks: int | None = None
    pairs: int | None = None
    seed: int = 0
    noise_seed: int = 0
    options: tuple[str, ...] = ()
    out: Path = Path("results")
    pairing: str = "interleaved"
    timeout: float = 1800.0
    executor: str = "local"
    address: str | None = None
    gate: dict[str, Any] = field(default_factory=dict)


def load_settings(
    given: Mapping[str, Any],
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Merge all sources.

    Args:
        given: Of the command line; None values count as not given.
        folder: Where the search for a configuration file starts (upwards).
        environment: Instead of the process's own.

    Raises:
        UsageError: An unknown key or a value of the wrong type, naming where it stands.
    """
    folder = Path.cwd() if folder is None else folder
    environment = os.environ if environment is None else environment
    merged: dict[str, Any] = {}
    table, origin = _file_table(folder)
    for key, value in table.items():
        if key not in _KEYS:
            raise UsageError(f"{origin}: unknown key '{key}'.{did_you_mean(key, list(_KEYS))}")
        merged[key] = _KEYS[key](value, f"{origin}: {key}")
    for key, text in _environment_values(environment).items():
        merged[key] = _KEYS[key](text, f"{ENVIRONMENT_PREFIX}{key.upper()}")
    for key, value in given.items():
        if value is not None:
            merged[key] = _KEYS[key](value, f"--{key}")
    return Settings(**merged)


def _file_table(folder: Path) -> tuple[dict[str, Any], str]:
    """The nearest configuration upwards: `srbench.toml`, or `[tool.srbench]` beside a project."""
    for place in (folder, *folder.resolve().parents):
        for name, path in (("srbench.toml", ()), ("pyproject.toml", ("tool", "srbench"))):
            file = place / name
            if not file.is_file():
                continue
            try:
                table: Any = tomllib.loads(file.read_text("utf-8"))
            except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
                raise UsageError(f"{file}: no valid TOML ({error})") from error
            for step in path:
                table = table.get(step, {})
                if not isinstance(table, dict):
                    raise UsageError(f"{file}: [{'.'.join(path)}] must be a table")
            if table or not path:
                return table, str(file)
    return {}, ""


def _environment_values(environment: Mapping[str, str]) -> dict[str, str]:
    names = {f"{ENVIRONMENT_PREFIX}{key.upper()}": key for key in _KEYS if key != "gate"}
    values = {}
    for variable, text in environment.items():
        if variable in names:
            if text:
                values[names[variable]] = text
        elif variable.startswith(ENVIRONMENT_PREFIX) and variable not in OTHER_VARIABLES:
            # Others may use the prefix too; only what looks like a slip of ours is refused.
            close = difflib.get_close_matches(variable, list(names), n=1, cutoff=0.85)
            if close:
                raise UsageError(f"{variable}: unknown variable. Did you mean '{close[0]}'?")
    return values


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where}: expected text, got {value!r}")
    return value


def _listed(value: Any, where: str, what: str = "names") -> Iterator[str]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list | tuple):
        raise UsageError(f"{where}: expected a list of {what}, got {value!r}")
    return (_text(text, where) for text in value)


def _texts(value: Any, where: str) -> tuple[str, ...]:
    names = (part.strip() for text in _listed(value, where) for part in text.split(","))
    return tuple(name for name in names if name)


def _arms(value: Any, where: str) -> tuple[str, ...]:
    return tuple(arm for text in _listed(value, where) for arm in split_arms(text, where))


def _assignments(value: Any, where: str) -> tuple[str, ...]:
    return tuple(_listed(value, where, "key=value"))


def _path(value: Any, where: str) -> Path:
    return value if isinstance(value, Path) else Path(_text(value, where)).expanduser()


def _one_of(*words: str) -> Callable[[Any, str], str]:
    def convert(value: Any, where: str) -> str:
        text = _text(value, where)
        if text not in words:
            raise UsageError(f"{where} '{text}': expected {' or '.join(words)}")
        return text

    return convert


MAX_SEED = 2**63 - 1


def _whole(least: int, most: int = MAX_SEED) -> Callable[[Any, str], int]:
    def convert(value: Any, where: str) -> int:
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if not isinstance(number, int) or isinstance(number, bool):
            number = least - 1
        if not least <= number <= most:
            bound = f"at most {most}" if number > most else f"at least {least}"
            raise UsageError(f"{where}: expected a whole number of {bound}, got {value!r}")
        return number

    return convert


def _seconds(value: Any, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = 0.0
    if not 0 < number < float("inf"):
        raise UsageError(f"{where}: expected a number of seconds above 0, got {value!r}")
    return number


def _table(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise UsageError(f"{where}: expected a table")
    return value


_KEYS: dict[str, Callable[[Any, str], Any]] = {
    "gpu": _text,
    "cases": _texts,
    "pipelines": _arms,
    "weights": _text,
    "inputs": _path,
    "precision": _one_of("fp32", "fp16"),
    "blocks": _whole(1),
    "pairs": _whole(1),
    "seed": _whole(0),
    "noise_seed": _whole(0),
    "options": _assignments,
    "out": _path,
    "pairing": _one_of("interleaved", "block"),
    "timeout": _seconds,
    "executor": _one_of("local", "ray"),
    "address": _text,
    "gate": _table,
}
