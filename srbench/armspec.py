"""What `--pipelines` names: a pipeline, perhaps of another revision, under a name of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from srbench.errors import UsageError
from srbench.fidelity.roles import ROLES
from srbench.worker_process import Launch

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSpec:
    """One arm of a run.

    Attributes:
        name: In records, tables and `--set NAME.key=value`.
        pipeline: Built-in or installed name, or `module:attribute`.
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
    """Read `[LABEL=]PIPELINE[@REVISION]`; without a label the whole text is the arm's name.

    Raises:
        UsageError: The label is no plain word, or the pipeline or revision is missing.
    """
    label, equals, rest = text.rpartition("=")
    pipeline, at, revision = rest.partition("@")
    if equals and not _LABEL.fullmatch(label):
        raise UsageError(
            f"--pipelines '{text}': the label '{label}' may hold letters, digits, '_' and '-' only"
        )
    if not pipeline or (at and not revision):
        missing = "revision after '@'" if pipeline else "pipeline"
        raise UsageError(f"--pipelines '{text}': names no {missing}")
    if (label or text) in ROLES:
        raise UsageError(
            f"--pipelines '{text}': '{label or text}' names a reference in the records; choose "
            "another label"
        )
    return ArmSpec(name=label or text, pipeline=pipeline, revision=revision or None)
