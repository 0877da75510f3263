"""Whether the blocks of a machine may go into a run that was begun, there or on another one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from srbench.gate.comparable import Level, environment_between
from srbench.records import RunRecord
from srbench.resuming import other_weights

APART = ("host", "dirty", "node", "accelerators")
"""What may change: the host's name, which a container has anew with every start; its place in a
cluster; whether the working tree is modified, as it is by the report of the interrupted run."""


def change(begun: RunRecord, now: RunRecord) -> str | None:
    """What is not as it was when the run began; None when its blocks can be told from no others."""
    if changed := _arms_changed(begun, now):
        return changed
    then, facts = (_facts(head.fingerprint) for head in (begun, now))
    for key in then.keys() | facts.keys():
        if then.get(key) != facts.get(key):
            return f"{key.replace('_', ' ')} was {then.get(key)}, is {facts.get(key)}"
    return None


def refusal(begun: RunRecord, now: RunRecord) -> str | None:
    """Why another machine of the kind may not go on with a run; None where its ratios may count.

    Its driver or libraries may differ at patch level, and what is around the card; the pipelines,
    weights and the code that measures may not.
    """
    if changed := _arms_changed(begun, now):
        return changed
    if weights := other_weights(begun, now.weights["digest"]):
        return weights
    if begun.arms != now.arms:
        return "a revision is another commit there"
    codes = [head.fingerprint.get("code_sha256") or "none" for head in (begun, now)]
    if codes[0] != codes[1]:
        return f"other code of srbench: {codes[1][:12]}, the run has {codes[0][:12]}"
    found = environment_between((now.profile, now.fingerprint), (begun.profile, begun.fingerprint))
    return next((d.line("the run") for d in found if d.level is Level.RATIO_ONLY), None)


def same_machine(begun: RunRecord, now: RunRecord) -> bool:
    """Whether every fact that a fingerprint holds is the same, the working tree's state aside."""
    then, facts = ({**head.fingerprint, "dirty": None} for head in (begun, now))
    return then == facts


def _arms_changed(begun: RunRecord, now: RunRecord) -> str | None:
    for name in begun.pipelines:
        if (begun.versions[name], begun.options[name]) != (now.versions[name], now.options[name]):
            return f"{name} or its options have changed"
    if (begun.tiers, begun.tf32) != (now.tiers, now.tf32):
        return "its fidelity tiers or its TF32 setting have changed"
    if begun.decided_by != now.decided_by:
        return "the policy or what --against names is another one than at its earlier looks"
    if begun.pairing != now.pairing:
        return f"its pairing was {begun.pairing}, the arms now need {now.pairing}"
    return None


def _facts(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """A fingerprint without what may change."""
    facts = {key: value for key, value in fingerprint.items() if key not in (*APART, "versions")}
    return {**facts, **fingerprint["versions"]}
