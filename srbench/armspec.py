"""What `--pipelines` names: a pipeline, of another revision perhaps, or a command; and its name."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from srbench.commands import PREFIX, command_name, command_words, is_command
from srbench.errors import UsageError
from srbench.fidelity.roles import ROLES
from srbench.worker_process import Launch

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSpec:
    """One arm of a run.

    Attributes:
        name: In records, tables and `--set NAME.key=value`.
        pipeline: Built-in or installed name, `module:attribute`, or `cmd:COMMAND`.
        revision: Git revision whose code runs, as typed; None for the code at hand.
        commit: Its hash, once it is checked out.
        launch: How its workers are started.
    """

    name: str
    pipeline: str
    revision: str | None = None
    commit: str | None = None
    launch: Launch = field(default_factory=Launch)

    def to_record(self) -> dict[str, Any]:
        """Entry of `RunRecord.arms`."""
        return {"pipeline": self.pipeline, "revision": self.revision, "commit": self.commit}


def parse_arm(text: str) -> ArmSpec:
    """Read `[LABEL=]PIPELINE[@REVISION]` or `[LABEL=]cmd:COMMAND`.

    Without a label a pipeline's name is the whole text, a command's is made from its words.

    Raises:
        UsageError: The label is no plain word, or the pipeline, revision or program is missing.
    """
    label, equals, rest = _split(text)
    pipeline, at, revision = (rest, "", "") if is_command(rest) else rest.partition("@")
    if equals and not _LABEL.fullmatch(label):
        raise UsageError(
            f"--pipelines '{text}': the label '{label}' may hold letters, digits, '_' and '-' only"
        )
    if not pipeline or (at and not revision):
        missing = "revision after '@'" if pipeline else "pipeline"
        raise UsageError(f"--pipelines '{text}': names no {missing}")
    name = label or (command_name(command_words(rest)) if is_command(rest) else text)
    if name in ROLES:
        raise UsageError(
            f"--pipelines '{text}': '{name}' names a reference in the records; choose another label"
        )
    return ArmSpec(name=name, pipeline=pipeline, revision=revision or None)


def _split(text: str) -> tuple[str, str, str]:
    """Label, `=` and the rest; a command may hold anything, so what is before it counts alone."""
    before, command, words = text.partition(PREFIX)
    if command and (before == "" or before.endswith("=")):
        return before.removesuffix("="), before[-1:], command + words
    return text.rpartition("=")
