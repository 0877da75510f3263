"""What can be chosen on the page: pipelines of one system, and the options they are given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from srbench.registry import (
    is_foreign,
    light_options,
    load_pipeline,
    option_names,
    parse_options,
    pipeline_names,
)
from srbench.systems import System, system_of

OPTION_WORDS = {
    "guidance": "guidance",
    "latent_tile": "tile size",
    "latent_overlap": "tile overlap",
    "color_fix": "colour fix",
}
"""Pipeline options that the page offers, and what it calls them."""


def pipelines_of(system: System) -> list[str]:
    """Names of the pipelines that take a system's weights, its baseline first."""
    ours = (name for name in pipeline_names() if not is_foreign(name))
    names = [name for name in ours if system_of(name) in (system, None)]
    return sorted(names, key=lambda name: (name != system.baseline, name))


def fit_options(name: str, values: Mapping[str, str]) -> tuple[Any, tuple[str, ...]]:
    """Options of a pipeline from the page's, and what of these it does not take, in sentences.

    A variant keeps its own default where that differs from its baseline's: it is what the variant
    is named for.

    Raises:
        UsageError: Unknown pipeline, or a text that is no value of its option.
        PipelineError: Options that do not fit together.
    """
    kind = _options_of(name)
    known = option_names(kind)
    theirs, system = _defaults(kind), system_of(name)
    usual = {} if system is None else _defaults(_options_of(system.baseline))
    taken, remarks = {}, []
    for key, text in values.items():
        if key not in known:
            remarks.append(f"{name} has no {OPTION_WORDS[key]}: ignored.")
        elif key in usual and theirs[key] != usual[key]:
            remarks.append(f"{name} keeps its own {OPTION_WORDS[key]} of {theirs[key]}.")
        else:
            taken[key] = text
    return parse_options(kind, taken), tuple(remarks)


def usual_text(system: System, key: str) -> str | None:
    """The text of an option's default in a system's baseline; None where it has no such option."""
    usual = _defaults(_options_of(system.baseline))
    return str(usual[key]) if key in usual else None


def _options_of(name: str) -> type:
    return light_options(name) or load_pipeline(name).Options


def _defaults(options: type) -> dict[str, Any]:
    return {field.name: field.default for field in dataclasses.fields(options)}
