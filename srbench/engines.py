"""Foreign engines: arms whose workers are programs of their own, with an interpreter of their own.

What they are told and have to answer is in `pipelines/external/PROTOCOL.md`.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pipelines
from srbench.armspec import ArmSpec
from srbench.commands import command_words, is_command
from srbench.errors import UsageError
from srbench.registry import (
    assignments_for,
    find_pipeline,
    light_options,
    option_names,
    parse_options,
)
from srbench.worker_process import Launch


def launched(arm: ArmSpec, assignments: Mapping[str, Mapping[str, str]]) -> ArmSpec:
    """Give an arm that is a foreign engine the launch of its program.

    Args:
        arm: One that is not is returned as it is.
        assignments: Of `srbench.registry.split_assignments`.

    Raises:
        UsageError: No such program here, no interpreter named, or a revision of a foreign engine.
    """
    if is_command(arm.pipeline):
        words = command_words(arm.pipeline)
        program = _program(words[0], f"--pipelines {arm.name}=cmd:{words[0]}")
        return replace(arm, launch=Launch(command=(program, *words[1:]), python_path=()))
    entry = find_pipeline(arm.pipeline)
    if entry.script is None:
        return arm
    if arm.revision is not None:
        raise UsageError(
            f"--pipelines {arm.name}: {arm.pipeline} is a program of its own, of which there are "
            "no revisions here; leave '@' and what follows out"
        )
    kind = light_options(arm.pipeline)
    assert kind is not None, f"{arm.pipeline} has a script and no options"
    options = parse_options(kind, assignments_for(arm.name, option_names(kind), assignments))
    if not options.python:
        raise UsageError(
            f"--set {arm.name}.python=PATH is missing: the interpreter of the environment in which "
            f"{arm.pipeline} runs"
        )
    python = _program(options.python, f"--set {arm.name}.python={options.python}")
    script = Path(str(pipelines.__file__)).resolve().parent / entry.script
    return replace(arm, launch=Launch(command=(python, str(script)), python_path=()))


def _program(name: str, where: str) -> str:
    """The program of a path, or of a name that is looked up as a shell does."""
    path = Path(name).expanduser()
    found = shutil.which(str(path))
    if found is not None:
        # Not resolved: an environment's interpreter is a link that knows the environment.
        return str(Path(found).absolute())
    if path.is_file():
        raise UsageError(f"{where}: cannot be executed; chmod +x, or name its interpreter")
    if "/" in name:
        raise UsageError(f"{where}: no such program")
    raise UsageError(f"{where}: no such program on the PATH")
