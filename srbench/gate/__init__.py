"""The verdict on a run: pictures, time, memory, energy, work. Reads records, never a device."""

from srbench.gate.checks import Check, Judgement, Verdict
from srbench.gate.comparable import Level, environment_of, require_comparable
from srbench.gate.policy import Policy, load_policy
from srbench.gate.sequence import time_is_decided
from srbench.gate.verdict import blemishes, judge, not_comparable, require_judgeable

__all__ = [
    "Check",
    "Judgement",
    "Level",
    "Policy",
    "Verdict",
    "blemishes",
    "environment_of",
    "judge",
    "load_policy",
    "not_comparable",
    "require_comparable",
    "require_judgeable",
    "time_is_decided",
]
