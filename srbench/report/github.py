"""A judgement for GitHub Actions: annotations and a step summary."""

from __future__ import annotations

from srbench.gate.checks import Judgement, Verdict
from srbench.report.markdown import table

MAX_ANNOTATIONS = 10
"""GitHub shows at most ten annotations of a kind a step and drops the rest silently."""

_LEVELS = {
    Verdict.FAIL: "error",
    Verdict.ERROR: "error",
    Verdict.NO_BASELINE: "error",
    Verdict.INCONCLUSIVE: "warning",
}


def workflow_commands(judgement: Judgement) -> list[str]:
    """At most ten workflow commands, the gravest checks first; the last one counts the rest."""
    noted = [check for check in judgement.worst_first() if check.verdict in _LEVELS]
    lines = [_annotation(_LEVELS[check.verdict], check.message) for check in noted]
    if len(lines) > MAX_ANNOTATIONS:
        rest = len(lines) - MAX_ANNOTATIONS + 1
        more = _annotation("warning", f"{rest} more checks did not pass, see the step summary")
        lines = [*lines[: MAX_ANNOTATIONS - 1], more]
    return lines


def step_summary(judgement: Judgement) -> str:
    """Markdown for `$GITHUB_STEP_SUMMARY`: the verdict, what did not pass, a count of the rest."""
    against = f" against {judgement.against}" if judgement.against else ""
    lines = [f"## srbench gate: {judgement.word}", f"Run `{judgement.run_id}`{against}."]
    noted = [check for check in judgement.worst_first() if check.verdict is not Verdict.PASS]
    if noted:
        rows = [[check.verdict.value, check.case, check.metric, check.message] for check in noted]
        lines.append(table(["verdict", "case", "metric", "what"], rows, left=4))
    lines.append(f"{len(judgement.checks) - len(noted)} of {len(judgement.checks)} checks passed.")
    return "\n\n".join(lines) + "\n"


def _annotation(level: str, message: str) -> str:
    return f"::{level} title=srbench gate::{escape(message)}"


def escape(message: str) -> str:
    """Escape the data part of a workflow command."""
    return message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
