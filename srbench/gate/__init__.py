"""The verdict on a run: fidelity, latency, memory and work. Reads records, never a device."""

from srbench.gate.checks import Check, Judgement, Verdict
from srbench.gate.comparable import require_comparable
from srbench.gate.policy import Policy, load_policy
from srbench.gate.verdict import judge, not_comparable

__all__ = [
    "Check",
    "Judgement",
    "Policy",
    "Verdict",
    "judge",
    "load_policy",
    "not_comparable",
    "require_comparable",
]
