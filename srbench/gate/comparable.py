"""What may be compared with what, and how far: the one place that tells environments apart."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from srbench.errors import NotComparableError
from srbench.records import Run, RunRecord
from srbench.stats.runs import baseline_arm, candidate_arms

_SAME_CARD = 0.02
"""Cards of one name differ in memory by variant (40 and 80 GB), not by what the driver keeps."""

_MACHINE = ("cpu_model", "cpu_cores", "cpu_threads", "power_limit_w")
_SOFTWARE = ("driver", "cuda_driver")
_PACKAGES = ("torch", "triton")


class Level(StrEnum):
    """How much of two runs may be held against each other.

    `exact`: times, ratios, memory and energy.
    `comparable`: ratios, pictures and work counters; the patch level of a driver or library
    differs, or the machine around the card.
    `ratio_only`: tables side by side, no verdict; another card, driver branch or torch release.
    """

    EXACT = "exact"
    COMPARABLE = "comparable"
    RATIO_ONLY = "ratio_only"


@dataclass(frozen=True, slots=True)
class Difference:
    """One fact in which two environments differ, and what is left of the comparison."""

    what: str
    ours: Any
    theirs: Any
    level: Level
    software: bool

    def line(self, name: str) -> str:
        """One line, with `name` for the other run."""
        return f"other {self.what}: {_show(self.ours)}, but {name} has {_show(self.theirs)}"


@dataclass(frozen=True, slots=True)
class Environment:
    """In what two runs' machines and libraries differ."""

    differences: tuple[Difference, ...] = ()

    @property
    def level(self) -> Level:
        """The strongest comparison that every difference leaves."""
        found = {difference.level for difference in self.differences}
        return next((lv for lv in (Level.RATIO_ONLY, Level.COMPARABLE) if lv in found), Level.EXACT)

    @property
    def same_software(self) -> bool:
        """Whether memory may be held: it follows driver and libraries, not the host around them."""
        return not any(difference.software for difference in self.differences)

    def lines(self, name: str) -> list[str]:
        """The differences, one line each."""
        return [difference.line(name) for difference in self.differences]

    def software_lines(self, name: str) -> list[str]:
        """The differences of driver and libraries, one line each."""
        return [difference.line(name) for difference in self.differences if difference.software]


@dataclass(frozen=True, slots=True)
class Yardstick:
    """What an arm is held against: an arm of the same run or of a promoted one.

    Attributes:
        run: The run it belongs to.
        arm: Its name there.
        name: What to call it in messages, such as `promoted 'main'`.
        environment: In what its run differs from the one under judgement.
    """

    run: Run
    arm: str
    name: str
    environment: Environment = Environment()


def environment_of(run: Run, reference: Run) -> Environment:
    """Compare the machines and libraries of two runs field by field.

    Where blocks of a run were measured on several machines of a kind, each of them counts.
    """
    found: list[Difference] = []
    for ours in _machines(run):
        for theirs in _machines(reference):
            places = (run.head.profile, ours), (reference.head.profile, theirs)
            found += [each for each in environment_between(*places) if each not in found]
    return Environment(tuple(found))


def _machines(run: Run) -> list[dict[str, Any]]:
    """Fingerprints of a run's machines, each different one once."""
    found: list[dict[str, Any]] = []
    for facts in (run.head.fingerprint, *run.machines.values()):
        if facts not in found:
            found.append(facts)
    return found


def environment_between(
    here: tuple[str, Mapping[str, Any]], there: tuple[str, Mapping[str, Any]]
) -> list[Difference]:
    """In what two machines and their libraries differ, each given by its profile and fingerprint.

    A fact that only one of the two recorded counts as a difference of patch level, that there is a
    GPU at all aside: unknown is not equal.
    """
    (profile, ours), (their_profile, theirs) = here, there
    found: list[Difference] = []
    for what, a, b in (
        ("profile", profile, their_profile),
        ("GPU", ours.get("gpu_name"), theirs.get("gpu_name")),
    ):
        if a != b:
            found.append(Difference(what, a, b, Level.RATIO_ONLY, software=False))
    memory, their_memory = ours.get("gpu_memory_bytes"), theirs.get("gpu_memory_bytes")
    if not memory or not their_memory:
        found += _difference("GPU memory", memory, their_memory, None)
    elif abs(memory / their_memory - 1) > _SAME_CARD:
        found.append(
            Difference("GPU memory", memory, their_memory, Level.RATIO_ONLY, software=False)
        )
    for key in _MACHINE:
        found += _difference(key, ours.get(key), theirs.get(key), None)
    for key in _SOFTWARE:
        found += _difference(key, ours.get(key), theirs.get(key), 1 if key == "driver" else 0)
    packages, their_packages = ours.get("versions") or {}, theirs.get("versions") or {}
    for key in _PACKAGES:
        parts = 2 if key == "torch" else 0
        found += _difference(key, packages.get(key), their_packages.get(key), parts)
    return found


def require_comparable(run: Run, reference: Run, name: str) -> list[str]:
    """Return the cases that both runs have, in this run's order.

    Args:
        run: The run under judgement.
        reference: The promoted run.
        name: What to call it in the message.

    Raises:
        NotComparableError: Purpose, card, driver branch, torch release, precision, weights, noise,
            baseline arm or its commit, every case, or a shared case's input differs.
    """
    if not reference.cells:
        raise NotComparableError(f"{name} holds no measured cell")
    for difference in environment_of(run, reference).differences:
        if difference.level is Level.RATIO_ONLY:
            raise NotComparableError(difference.line(name))
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
            f"no case in common: {_show(', '.join(run.head.cases))}, but {name} has "
            f"{_show(', '.join(reference.head.cases))}"
        )
    for case in shared:
        ours, theirs = (_input_digest(each, case) for each in (run, reference))
        if ours != theirs:
            raise NotComparableError(
                f"other input pixels for {case}: sha256 {_show(ours)}, but {name} has "
                f"{_show(theirs)}"
            )
    return shared


def same_pipeline(head: RunRecord, candidate: str) -> bool:
    """Whether the candidate is the baseline's pipeline: another revision of it, or an A/A arm."""
    if head.purpose == "aa":
        return True
    ours, base = (head.arms.get(arm, {}) for arm in (candidate, head.pipelines[0]))
    pipeline = ours.get("pipeline")
    return pipeline is not None and pipeline == base.get("pipeline")


def of_callables(run: Run) -> bool:
    """Whether a test suite's callables were measured: no networks, perhaps no pictures."""
    return bool(run.head.weights.get("kind") == "none")


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


def _difference(key: str, ours: Any, theirs: Any, parts: int | None) -> list[Difference]:
    """`parts`: how many leading numbers of a version must agree; None for what is no version."""
    if ours == theirs:
        return []
    level = Level.COMPARABLE
    if parts and None not in (ours, theirs) and _leading(ours, parts) != _leading(theirs, parts):
        level = Level.RATIO_ONLY
    software = parts is not None
    return [Difference(key.replace("_", " "), ours, theirs, level, software)]


def _leading(version: str, parts: int) -> list[str]:
    return re.findall(r"\d+", version)[:parts]


def _facts(run: Run, reference: Run) -> list[tuple[str, Any, Any]]:
    ours, theirs = run.head, reference.head
    base, their_base = baseline_arm(run), baseline_arm(reference)
    facts: list[tuple[str, Any, Any]] = [
        ("purpose", ours.purpose, theirs.purpose),
        ("precision", ours.precision, theirs.precision),
        ("TF32 setting", ours.tf32, theirs.tf32),
        ("noise seed", ours.noise_seed, theirs.noise_seed),
        ("baseline arm", base, their_base),
        ("version of the baseline arm", ours.versions.get(base), theirs.versions.get(their_base)),
        ("commit of the baseline arm", _commit(ours, base), _commit(theirs, their_base)),
    ]
    options, their_options = ours.options.get(base, {}), theirs.options.get(their_base, {})
    for key in sorted(options.keys() | their_options.keys()):
        facts.append(
            (f"option '{key}' of the baseline arm", options.get(key), their_options.get(key))
        )
    return facts


def _commit(head: RunRecord, arm: str) -> str | None:
    """Of a revision; None for the working tree. A branch of one name may have moved on."""
    commit: str | None = head.arms.get(arm, {}).get("commit")
    return commit


def _input_digest(run: Run, case: str) -> str | None:
    return run.head.inputs.get(case, {}).get("sha256")


def _show(value: Any) -> str:
    text = "none" if value in (None, "") else str(value)
    return f"{text[:12]}…" if len(text) == 64 else text
