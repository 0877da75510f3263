"""A judgement for GitHub Actions: annotations and a step summary."""

from __future__ import annotations

from srbench.gate.checks import Check, Judgement, Verdict
from srbench.report.markdown import table

MAX_ANNOTATIONS = 10
"""GitHub shows at most ten annotations of a kind a step and drops the rest silently."""

MAX_SUMMARY_BYTES = 900_000
"""GitHub refuses the whole summary of a step above 1 MiB; other commands may add to it."""

_LEVELS = {
    Verdict.FAIL: "error",
    Verdict.ERROR: "error",
    Verdict.NO_BASELINE: "error",
    Verdict.INCONCLUSIVE: "warning",
}


def workflow_commands(judgement: Judgement) -> list[str]:
    """At most ten workflow commands, the gravest checks first; the last one counts the rest."""
    noted = [check for check in judgement.worst_first() if check.verdict in _LEVELS]
    title = "srbench gate (SIMULATED)" if judgement.simulated else "srbench gate"
    lines = [_annotation(_level(check, judgement), title, check.message) for check in noted]
    if len(lines) > MAX_ANNOTATIONS:
        rest = len(lines) - MAX_ANNOTATIONS + 1
        more = f"{rest} more checks did not pass, see the step summary"
        lines = [*lines[: MAX_ANNOTATIONS - 1], _annotation("warning", title, more)]
    return lines


def step_summary(judgement: Judgement) -> str:
    """Markdown for `$GITHUB_STEP_SUMMARY`: the verdict, what did not pass, a count of the rest.

    Rows beyond `MAX_SUMMARY_BYTES` are left out, the least grave first, and counted.
    """
    against = f" against {judgement.against}" if judgement.against else ""
    parts = [f"## srbench gate: {judgement.word}", f"Run `{judgement.run_id}`{against}."]
    parts += [f"> {warning}" for warning in judgement.warnings[:MAX_ANNOTATIONS]]
    noted = [check for check in judgement.worst_first() if check.verdict is not Verdict.PASS]
    shown = _fitting(noted)
    if shown:
        rows = [[check.verdict.value, check.case, check.metric, check.message] for check in shown]
        parts.append(table(["verdict", "case", "metric", "what"], rows, left=4))
    if left_out := len(noted) - len(shown):
        parts.append(
            f"{left_out} more checks did not pass; `srbench gate --json`, the JUnit file and the "
            "results among the artifacts of this job hold them all."
        )
    parts.append(f"{len(judgement.checks) - len(noted)} of {len(judgement.checks)} checks passed.")
    return "\n\n".join(parts) + "\n"


def _fitting(checks: list[Check]) -> list[Check]:
    """As many of the first checks as a summary may hold, rows counted generously."""
    budget = MAX_SUMMARY_BYTES - 20_000
    for count, check in enumerate(checks):
        words = (check.verdict.value, check.case, check.metric, check.message)
        budget -= 40 + 2 * sum(len(word.encode()) for word in words)
        if budget < 0:
            return checks[:count]
    return checks


def _level(check: Check, judgement: Judgement) -> str:
    if check.verdict is Verdict.INCONCLUSIVE and judgement.on_inconclusive == "fail":
        return "error"
    return _LEVELS[check.verdict]


def _annotation(level: str, title: str, message: str) -> str:
    return f"::{level} title={escape_property(title)}::{escape(message)}"


def escape(message: str) -> str:
    """Escape the data part of a workflow command."""
    return message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escape_property(value: str) -> str:
    """Escape a property of a workflow command, where `:` and `,` would end it."""
    return escape(value).replace(":", "%3A").replace(",", "%2C")
