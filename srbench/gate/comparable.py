"""Whether two runs may be compared at all; the answer names the one thing that differs."""

from __future__ import annotations

from typing import Any

from srbench.errors import NotComparableError
from srbench.records import Run
from srbench.stats.runs import baseline_arm, candidate_arms


def require_comparable(run: Run, reference: Run, name: str) -> list[str]:
    """Return the cases that both runs have, in this run's order.

    Args:
        run: The run under judgement.
        reference: The promoted run.
        name: What to call it in the message.

    Raises:
        NotComparableError: Profile, precision, weights, noise, baseline arm, every case, or a
            shared case's input differs.
    """
    for what, ours, theirs in _facts(run, reference):
        if ours != theirs:
            raise NotComparableError(f"other {what}: {_show(ours)}, but {name} has {_show(theirs)}")
    return shared_cases(run, reference, name)


def shared_cases(run: Run, reference: Run, name: str) -> list[str]:
    """Return the cases that both runs have, from the same weights and input pixels.

    Raises:
        NotComparableError: The weights differ, no case is shared, or a shared input differs.
    """
    digests = run.head.weights.get("digest"), reference.head.weights.get("digest")
    if digests[0] != digests[1]:
        raise NotComparableError(
            f"other weights: {_show(digests[0])}, but {name} has {_show(digests[1])}"
        )
    shared = [case for case in run.head.cases if case in reference.head.cases]
    if not shared:
        raise NotComparableError(
            f"no case in common: {', '.join(run.head.cases)}, but {name} has "
            f"{', '.join(reference.head.cases)}"
        )
    for case in shared:
        ours, theirs = (_input_digest(each, case) for each in (run, reference))
        if ours != theirs:
            raise NotComparableError(
                f"other input pixels for {case}: sha256 {_show(ours)}, but {name} has "
                f"{_show(theirs)}"
            )
    return shared


def environment_differences(run: Run, reference: Run, name: str) -> list[str]:
    """What differs of the machines without forbidding a comparison of ratios, one line each."""
    ours, theirs = run.head.fingerprint, reference.head.fingerprint
    facts = [(key, ours.get(key), theirs.get(key)) for key in ("cpu_model", "cpu_cores", "driver")]
    versions, their_versions = ours.get("versions") or {}, theirs.get("versions") or {}
    facts += [(key, versions.get(key), their_versions.get(key)) for key in ("torch", "triton")]
    return [
        f"other {what.replace('_', ' ')}: {_show(a)}, but {name} has {_show(b)}"
        for what, a, b in facts
        if a != b
    ]


def matching_arm(run: Run, candidate: str, reference: Run, name: str) -> str:
    """The arm of the promoted run to hold `candidate` against: by name, else by role.

    Raises:
        NotComparableError: Neither the name nor a single candidate on both sides matches.
    """
    theirs = candidate_arms(reference)
    if candidate in theirs:
        return candidate
    if len(candidate_arms(run)) == 1 and len(theirs) == 1:
        return theirs[0]
    raise NotComparableError(
        f"{name} has no arm '{candidate}', only {', '.join(theirs) or 'its baseline'}"
    )


def _facts(run: Run, reference: Run) -> list[tuple[str, Any, Any]]:
    ours, theirs = run.head, reference.head
    base, their_base = baseline_arm(run), baseline_arm(reference)
    facts: list[tuple[str, Any, Any]] = [
        ("profile", ours.profile, theirs.profile),
        ("GPU", ours.fingerprint.get("gpu_name"), theirs.fingerprint.get("gpu_name")),
        ("precision", ours.precision, theirs.precision),
        ("TF32 setting", ours.tf32, theirs.tf32),
        ("noise seed", ours.noise_seed, theirs.noise_seed),
        ("baseline arm", base, their_base),
        ("version of the baseline arm", ours.versions.get(base), theirs.versions.get(their_base)),
    ]
    options, their_options = ours.options.get(base, {}), theirs.options.get(their_base, {})
    for key in sorted(options.keys() | their_options.keys()):
        facts.append(
            (f"option '{key}' of the baseline arm", options.get(key), their_options.get(key))
        )
    return facts


def _input_digest(run: Run, case: str) -> str | None:
    return run.head.inputs.get(case, {}).get("sha256")


def _show(value: Any) -> str:
    text = "none" if value is None else str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
